"""COCO keypoints: images with people, their joints, and boxes of a person detector."""

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

PERSON = 1  # category
NOBODY = People.of_boxes(torch.zeros(0, 4), torch.zeros(0))


class CocoKeypoints(AbstractDataset):
    """People of COCO, in its layout.

    ``root`` holds ``annotations/person_keypoints_SPLIT2017.json`` and the images in ``SPLIT2017``.
    Label ``keypoints`` is ``m j 3``: x and y in pixels, and 0 (no label), 1 (covered) or 2 (seen).

    Args:
        root: folder of the data set.
        split: ``train`` or ``val``.
        year: of the data set.
        each: what a sample is: an ``image`` with all people, to evaluate on, or one ``person`` with
            labelled joints, to train on (with ``PersonCrop``).
        boxes: JSON of detections (``image_id``, ``category_id``, ``bbox``, ``score``), in which
            joints are looked for; None: the boxes of the labels.
        least_score: of a detection that is looked into.
        joints: their number.

    Raises:
        InputError: if a file is missing or damaged, a box lies outside of its image or is empty, or
            the detections are those of other images.
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
            raise InputError("boxes are for each='image': a person to train on has its own box")
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
                for i, one in enumerate(self._people[number])
                if _is_labelled(one)
            ]
        if not self._samples:
            raise InputError(f"{self.annotations}: no {each} in it: give a whole file")
        self._detections: Mapping[Any, People] | None = None
        if boxes is not None:
            self._detections = read_detections(Path(boxes), self._images, least_score)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``; a person's id is that of the image and its number.

        Raises:
            InputError: if the image cannot be used, or has another size than its labels.
        """
        number, one = self._samples[index]
        about = self._images[number]
        image = read_sized_image(
            self.folder / about["file_name"],
            (about["height"], about["width"]),
            self.annotations.name,
        )
        rows = self._people[number] if one is None else [self._people[number][one]]
        people = _people(rows, self.joints)
        found = None if self._detections is None else self._detections.get(number, NOBODY)
        return Sample(
            id=str(number) if one is None else f"{number}-{one}",
            image=image,
            labels={"keypoints": people.keypoints},
            valid={"keypoints": torch.ones(image.shape[-2:], dtype=torch.bool)},
            people=people,
            detections=found,
        )


def read_people(
    path: Path, joints: int
) -> tuple[dict[Any, dict[str, Any]], dict[Any, list[dict[str, Any]]]]:
    """Return the images of an annotation file by their numbers, and the people in each.

    Raises:
        InputError: if it holds no joints of COCO, or a box lies outside of its image or is empty.
    """
    data = read_json(path)
    try:
        images = {one["id"]: one for one in data["images"]}
        sizes = {n: (_whole(one["height"]), _whole(one["width"])) for n, one in images.items()}
        people: dict[Any, list[dict[str, Any]]] = {number: [] for number in images}
        for one in data.get("annotations", []):  # a test set has none
            number = one["image_id"]
            if number not in images:
                raise InputError(
                    f"{path}: annotation {one['id']} is of image {number}, which is "
                    "not in the file: export it again"
                )
            if len(one["keypoints"]) != 3 * joints:
                raise InputError(
                    f"{path}: annotation {one['id']} has {len(one['keypoints'])} numbers for "
                    f"{joints} joints of three each: correct it, or set joints"
                )
            for value in (*one["keypoints"], *one["bbox"], one["area"]):
                _number(value)
            if _is_labelled(one):
                _check_box(f"{path}: annotation {one['id']}", one["bbox"], sizes[number])
            people[number].append(one)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: no joints of COCO ({type(error).__name__}: {error}): give a JSON file with "
            "images, and annotations with keypoints, area and bbox"
        ) from None
    return images, people


def read_detections(
    path: Path, images: Mapping[Any, Mapping[str, Any]], least_score: float = 0.0
) -> dict[Any, People]:
    """Return the boxes of people by the numbers of their images, best first.

    Args:
        path: see ``boxes_of_people``.
        images: that they may be of, with ``height`` and ``width``.
        least_score: of a box that is kept.

    Raises:
        InputError: if it is no such list, a box lies outside of its image or is empty, or it is of
            other images.
    """
    found = {}
    for number, boxes in boxes_of_people(path, least_score).items():
        if number not in images:
            raise InputError(
                f"{path}: a box is of image {number}, which is not in the data set: give the "
                "detections of its images"
            )
        about = images[number]
        found[number] = people_in(path, boxes, (about["height"], about["width"]))
    return found


def boxes_of_people(path: Path, least_score: float = 0.0) -> dict[Any, list[Sequence[float]]]:
    """Return left, top, width, height and score of boxes by ``image_id``, best first.

    Args:
        path: JSON list of ``image_id``, ``category_id`` (1, a person, where it is left out),
            ``bbox`` (left, top, width, height) and ``score``.
        least_score: of a box that is kept.

    Raises:
        InputError: if it is no such list.
    """
    boxes: dict[Any, list[Sequence[float]]] = defaultdict(list)
    try:
        for row in read_json(path):
            left, top, width, height = map(_number, row["bbox"])
            score = _number(row["score"])
            if row.get("category_id", PERSON) == PERSON and score >= least_score:
                boxes[row["image_id"]].append((left, top, width, height, score))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: no detections ({type(error).__name__}: {error}): give a JSON list of "
            "image_id, bbox and score"
        ) from None
    for some in boxes.values():
        some.sort(key=lambda row: -row[4])
    return dict(boxes)


def people_in(path: Path, boxes: Sequence[Sequence[float]], hw: tuple[int, int]) -> People:
    """Return boxes of one image as people.

    Args:
        path: of their file.
        boxes: left, top, width, height and score.
        hw: height and width of the image.

    Raises:
        InputError: if a box lies outside of the image or is empty.
    """
    for box in boxes:
        _check_box(str(path), box[:4], hw)
    table = torch.tensor(boxes).reshape(-1, 5)
    return People.of_boxes(_edges(table[:, :4]), table[:, 4])


def _check_box(where: str, box: Sequence[Any], hw: tuple[int, int]) -> None:
    left, top, width, height = map(float, box)
    rows, columns = hw
    size = f"{columns} x {rows} px"
    if not (width > 0 and height > 0):
        raise InputError(f"{where}: the box {list(box)} is empty: give left, top, width and height")
    if not (left < columns and top < rows and left + width > 0 and top + height > 0):
        raise InputError(f"{where}: the box {list(box)} lies outside of its image of {size}")


def _number(value: Any) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{value!r} is no size in pixels")
    return value


def _is_labelled(one: Mapping[str, Any]) -> bool:
    return not one.get("iscrowd") and any(seen > 0 for seen in one["keypoints"][2::3])


def _edges(boxes: torch.Tensor) -> torch.Tensor:
    """Return left, top, right and bottom of boxes with width and height."""
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)


def _people(rows: Sequence[Mapping[str, Any]], joints: int) -> People:
    boxes = torch.tensor([list(map(float, one["bbox"])) for one in rows]).reshape(-1, 4)
    keypoints = torch.tensor([list(map(float, one["keypoints"])) for one in rows])
    return People(
        edges=_edges(boxes),
        scores=torch.ones(len(rows)),
        keypoints=keypoints.reshape(-1, joints, 3),
        areas=torch.tensor([float(one["area"]) for one in rows]),
        is_crowd=torch.tensor([bool(one.get("iscrowd")) for one in rows], dtype=torch.bool),
    )
