"""COCO keypoints: images of people with labelled joints, and boxes of a person detector."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.files import read_json, read_sized_image
from diffsight.errors import InputError
from diffsight.label_maps import COCO_KEYPOINTS
from diffsight.types import People

PERSON = 1  # id of the category
NO_PEOPLE = People.of_boxes(torch.zeros(0, 4), torch.zeros(0))


class CocoKeypoints(AbstractDataset):
    """People of COCO with their joints, in COCO's own layout.

    ``root`` contains ``annotations/person_keypoints_SPLIT2017.json`` and the images in
    ``SPLIT2017``. Label ``keypoints`` is ``m j 3`` for m people with j joints: x and y in pixels,
    and COCO's visibility, which is 0 (no label), 1 (occluded) or 2 (visible).

    Args:
        root: folder of the data set.
        split: ``train`` or ``val``.
        year: year in the names of folders and files.
        each: content of a sample: ``image`` is an image with all its people, for evaluation;
            ``person`` is one person with labelled joints, for training with ``PersonCrop``.
        boxes: JSON file of detections (``image_id``, ``category_id``, ``bbox``, ``score``) in which
            joints are predicted; None uses the labelled boxes.
        least_score: lowest score of a detection that is used.
        joints: number of joints per person.

    Raises:
        InputError: if a file is missing or damaged, a box is empty or outside its image, or the
            detections belong to other images.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        split: str = "train",
        year: int = 2017,
        each: Literal["image", "person"] = "image",
        boxes: str | Path | None = None,
        least_score: float = 0.0,
        joints: int = len(COCO_KEYPOINTS),
    ) -> None:
        if each == "person" and boxes is not None:
            raise InputError(
                "boxes requires each='image': remove boxes, since training uses the labelled boxes"
            )
        self.name = f"coco-keypoints-{split}{year}"
        self.root = Path(root)
        self.each = each
        self.joints = joints
        self.folder = self.root / f"{split}{year}"
        self.annotations = self.root / "annotations" / f"person_keypoints_{split}{year}.json"
        self._images, self._people = read_people(self.annotations, joints)
        numbers = list(self._images)
        self._samples: list[tuple[Any, int | None]] = [(number, None) for number in numbers]
        if each == "person":
            self._samples = [
                (number, i)
                for number in numbers
                for i, person in enumerate(self._people[number])
                if _has_labelled_joints(person)
            ]
        if not self._samples:
            raise InputError(f"{self.annotations}: contains no {each}: use COCO's complete file")
        self._detections: Mapping[Any, People] | None = None
        if boxes is not None:
            self._detections = read_detections(Path(boxes), self._images, least_score)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``.

        The id of a person's sample is ``IMAGE-INDEX``, where INDEX counts the people in the image
        from 0.

        Raises:
            InputError: if the image cannot be read, or has another size than its annotations say.
        """
        number, position = self._samples[index]
        entry = self._images[number]
        image = read_sized_image(
            self.folder / entry["file_name"],
            (entry["height"], entry["width"]),
            self.annotations.name,
        )
        rows = self._people[number] if position is None else [self._people[number][position]]
        people = _rows_to_people(rows, self.joints)
        detections = None
        if self._detections is not None:
            detections = self._detections.get(number, NO_PEOPLE)
        return Sample(
            id=str(number) if position is None else f"{number}-{position}",
            image=image,
            labels={"keypoints": people.keypoints},
            valid={"keypoints": torch.ones(image.shape[-2:], dtype=torch.bool)},
            people=people,
            detections=detections,
        )


def read_people(
    path: Path, joints: int
) -> tuple[dict[Any, dict[str, Any]], dict[Any, list[dict[str, Any]]]]:
    """Return the entries of the images and of the people in a COCO keypoints file.

    Args:
        path: JSON file with ``images`` and, except for test sets, ``annotations``.
        joints: number of joints per person.

    Returns:
        Image entries by image id, and lists of person entries by image id.

    Raises:
        InputError: if the file does not contain COCO keypoints, or a box is empty or outside its
            image.
    """
    data = read_json(path)
    try:
        images = {image["id"]: image for image in data["images"]}
        sizes = {
            number: (_require_size(image["height"]), _require_size(image["width"]))
            for number, image in images.items()
        }
        people: dict[Any, list[dict[str, Any]]] = {number: [] for number in images}
        for person in data.get("annotations", []):  # a test set has none
            number = person["image_id"]
            if number not in images:
                raise InputError(
                    f"{path}: annotation {person['id']} belongs to image {number}, which is not in "
                    "the file: export it again"
                )
            if len(person["keypoints"]) != 3 * joints:
                raise InputError(
                    f"{path}: annotation {person['id']} has {len(person['keypoints'])} numbers "
                    f"instead of three for each of {joints} joints: correct it, or set joints"
                )
            for value in (*person["keypoints"], *person["bbox"], person["area"]):
                _require_number(value)
            if _has_labelled_joints(person):
                _check_box(f"{path}: annotation {person['id']}", person["bbox"], sizes[number])
            people[number].append(person)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: not a COCO keypoints file ({type(error).__name__}: {error}): give a JSON "
            "file with images, and annotations with keypoints, area and bbox"
        ) from None
    return images, people


def read_detections(
    path: Path, images: Mapping[Any, Mapping[str, Any]], least_score: float = 0.0
) -> dict[Any, People]:
    """Return detected people by image id; those of an image are ordered by falling score.

    Args:
        path: file of detections, see ``read_person_boxes``.
        images: entries of the data set's images by image id, with ``height`` and ``width``.
        least_score: lowest score of a box that is kept.

    Raises:
        InputError: if the file is not a list of detections, a box is empty or outside its image, or
            belongs to no image of the data set.
    """
    detections = {}
    for number, boxes in read_person_boxes(path, least_score).items():
        if number not in images:
            raise InputError(
                f"{path}: a box belongs to image {number}, which is not in the data set: use "
                "detections for this data set"
            )
        entry = images[number]
        detections[number] = boxes_to_people(path, boxes, (entry["height"], entry["width"]))
    return detections


def read_person_boxes(path: Path, least_score: float = 0.0) -> dict[Any, list[Sequence[float]]]:
    """Return boxes of people by ``image_id``; those of an image are ordered by falling score.

    Args:
        path: JSON file with a list of detections: ``image_id``, ``category_id`` (optional, 1 is a
            person), ``bbox`` (left, top, width, height in pixels) and ``score``.
        least_score: lowest score of a box that is kept.

    Returns:
        Lists of (left, top, width, height, score).

    Raises:
        InputError: if the file is not such a list.
    """
    boxes: dict[Any, list[Sequence[float]]] = defaultdict(list)
    try:
        for row in read_json(path):
            left, top, width, height = map(_require_number, row["bbox"])
            score = _require_number(row["score"])
            if row.get("category_id", PERSON) == PERSON and score >= least_score:
                boxes[row["image_id"]].append((left, top, width, height, score))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: no detections ({type(error).__name__}: {error}): give a JSON list of objects "
            "with image_id, bbox and score"
        ) from None
    for rows in boxes.values():
        rows.sort(key=lambda row: -row[4])
    return dict(boxes)


def boxes_to_people(path: Path, boxes: Sequence[Sequence[float]], hw: tuple[int, int]) -> People:
    """Return the boxes of one image as people without joints.

    Args:
        path: file of the boxes, for messages.
        boxes: rows of left, top, width, height (in pixels) and score.
        hw: height and width of the image.

    Raises:
        InputError: if a box is empty or outside the image.
    """
    for box in boxes:
        _check_box(str(path), box[:4], hw)
    table = torch.tensor(boxes).reshape(-1, 5)
    return People.of_boxes(_to_edges(table[:, :4]), table[:, 4])


def _check_box(source: str, box: Sequence[Any], hw: tuple[int, int]) -> None:
    """Raise an error for a box (left, top, width, height) that is empty or outside the image.

    Raises:
        InputError: if it is; the message begins with ``source``.
    """
    left, top, width, height = map(float, box)
    rows, columns = hw
    if not (width > 0 and height > 0):
        raise InputError(
            f"{source}: the box {list(box)} is empty: give left, top, width and height"
        )
    if not (left < columns and top < rows and left + width > 0 and top + height > 0):
        raise InputError(
            f"{source}: the box {list(box)} lies outside of its image of {columns} x {rows} px: "
            "correct it, or use the original image"
        )


def _require_number(value: Any) -> float:
    """Return a finite number as float.

    Raises:
        ValueError: if it is infinite or NaN.
        TypeError: if it is not a number.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def _require_size(value: Any) -> int:
    """Return a length in pixels.

    Raises:
        ValueError: if it is not a positive integer.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{value!r} is not a size in pixels")
    return value


def _has_labelled_joints(person: Mapping[str, Any]) -> bool:
    """Return whether an entry is a single person with at least one labelled joint."""
    return not person.get("iscrowd") and any(state > 0 for state in person["keypoints"][2::3])


def _to_edges(boxes: torch.Tensor) -> torch.Tensor:
    """Return boxes ``m 4`` of left, top, width and height as left, top, right and bottom."""
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)


def _rows_to_people(rows: Sequence[Mapping[str, Any]], joints: int) -> People:
    """Return person entries of a COCO file as ``People`` with the given number of joints."""
    boxes = torch.tensor([list(map(float, row["bbox"])) for row in rows]).reshape(-1, 4)
    keypoints = torch.tensor([list(map(float, row["keypoints"])) for row in rows])
    return People(
        edges=_to_edges(boxes),
        scores=torch.ones(len(rows)),
        keypoints=keypoints.reshape(-1, joints, 3),
        areas=torch.tensor([float(row["area"]) for row in rows]),
        is_crowd=torch.tensor([bool(row.get("iscrowd")) for row in rows], dtype=torch.bool),
    )
