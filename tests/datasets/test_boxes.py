"""Boxes of COCO: certain background outside, unknown pixels inside, through every change."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support_labels import COUNT, HEIGHT, WIDTH, box, ids, png, write_coco, write_folder

from diffsight.datasets import ClassFolder
from diffsight.datasets.base import collate
from diffsight.datasets.class_lists import ClassList
from diffsight.datasets.labelled_folder import LabelledFolder, read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.datasets.pairs import content_hash
from diffsight.datasets.transforms import HorizontalFlip, RandomCrop, Resize
from diffsight.errors import InputError

FORM = LabelFormat("segmentation")


def write_boxes(where: Path, *, only: tuple[int, ...] = (3, 8)) -> tuple[Path, Path]:
    """Write images and COCO, in which annotations of these categories are boxes alone."""
    images, _ = write_folder(where, None)
    file = write_coco(where / "boxes.json")
    data = json.loads(file.read_text())
    for one in data["annotations"]:
        if one["category_id"] in only:
            number = one["image_id"] - 7
            top, bottom, left, right = box(number)
            if one["category_id"] == 3:
                top, bottom, left, right = HEIGHT // 2 + number, HEIGHT, 0, WIDTH
            one["bbox"] = [left, top, right - left, bottom - top]
            del one["segmentation"]
    file.write_text(json.dumps(data))
    return images, file


def by_number(folder: LabelledFolder, images: Path) -> dict[int, Any]:
    number_of = {content_hash(images / f"p{i}.jpg"): i for i in range(COUNT)}
    return {number_of[sample.id]: sample for sample in folder}


def test_outside_is_background_and_inside_is_open(tmp_path: Path) -> None:
    images, file = write_boxes(tmp_path)
    folder = read_labelled_folder(images, file, FORM)
    assert folder.names == ("background", "grass", "house")
    assert folder.ids == (0, 3, 8)
    assert any("6 boxes without an outline: the class is some" in note for note in folder.notes)
    for number, sample in by_number(folder, images).items():
        label, valid = sample.labels["semantic"], sample.valid["semantic"]
        assert torch.equal(valid, torch.from_numpy(ids(number) == 0))
        assert not label.any()
        assert sample.boxes.class_ids.tolist() == [1, 2]
        top, bottom, left, right = box(number)
        assert sample.boxes.edges[1].tolist() == [left, top, right, bottom]
        assert sample.boxes.is_whole.all()
        assert sample.boxes.background == 0


def test_an_outline_wins_over_boxes(tmp_path: Path) -> None:
    images, file = write_boxes(tmp_path, only=(3,))
    folder = read_labelled_folder(images, file, FORM)
    for number, sample in by_number(folder, images).items():
        classes = ids(number)
        valid = torch.from_numpy(classes != 1)
        assert torch.equal(sample.valid["semantic"], valid)
        expected = torch.from_numpy(np.where(classes == 2, 2, 0)).long()
        assert torch.equal(sample.labels["semantic"], expected)
        assert sample.boxes.class_ids.tolist() == [1]


def test_further_images_have_the_classes_of_the_first(tmp_path: Path) -> None:
    masks = write_folder(tmp_path / "masks", lambda c, p: png(np.array([5, 9, 2], np.uint8)[c], p))
    names = {2: "house", 5: "background", 9: "grass"}
    like = read_labelled_folder(*masks, FORM, classes=ClassList(names, "id"))
    images, file = write_boxes(tmp_path / "boxes")
    folder = read_labelled_folder(images, file, FORM, like=like)
    for sample in folder:
        assert sample.boxes is not None
        assert sample.boxes.class_ids.tolist() == [2, 0]
        assert sample.boxes.background == 1
        assert (sample.labels["semantic"][sample.valid["semantic"]] == 1).all()
    few = LabelledFolder(FORM, like.samples, ids=(5, 9), names=("background", "grass"))
    with pytest.raises(InputError, match="holds class 'house', of which nothing is learned"):
        read_labelled_folder(images, file, FORM, like=few)


def test_an_image_that_a_box_fills_is_used(tmp_path: Path) -> None:
    images, file = write_boxes(tmp_path)
    data = json.loads(file.read_text())
    for one in data["annotations"]:
        one["bbox"] = [-5, -5, WIDTH + 20, HEIGHT + 20]
    file.write_text(json.dumps(data))
    folder = read_labelled_folder(images, file, FORM)
    assert folder.names == ("background", "grass", "house")
    assert not any(bool(sample.valid["semantic"].any()) for sample in folder)
    assert folder[0].boxes is not None
    assert folder[0].boxes.edges.tolist() == [[0, 0, WIDTH, HEIGHT]] * 2


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([1, 2, 0, 5], r"a box \[1, 2, 0, 5\] of photos/p0\.jpg, which has 90 x 60 pixels"),
        ([95, 2, 5, 5], r"a box \[95, 2, 5, 5\]"),
        ([1, 2, float("nan"), 5], r"a box \[1, 2, nan, 5\]"),
        ([1, 2, 3], r"no instances of COCO"),
        (["a", 2, 3, 4], r"no instances of COCO"),
    ],
)
def test_boxes_that_are_none(edges: list[Any], message: str, tmp_path: Path) -> None:
    images, file = write_boxes(tmp_path)
    data = json.loads(file.read_text())
    data["annotations"][0]["bbox"] = edges
    file.write_text(json.dumps(data))
    with pytest.raises(InputError, match=message) as error:
        read_labelled_folder(images, file, FORM)
    assert "\n" not in str(error.value)


def test_class_folder_and_transforms_carry_boxes(tmp_path: Path) -> None:
    _, file = write_boxes(tmp_path)
    classes = {"house": 8, "grass": 3, "background": 0}
    data = ClassFolder(root=tmp_path, labels=file.name, classes=classes)
    sample = data[0]
    assert sample.boxes is not None
    assert sample.boxes.class_ids.tolist() == [1, 0]
    assert sample.boxes.background == 2
    assert (sample.labels["semantic"][sample.valid["semantic"]] == 2).all()
    generator = torch.Generator().manual_seed(0)
    top, bottom, left, right = box(0)
    flipped = HorizontalFlip(probability=1.0)(sample, generator)
    assert flipped.boxes is not None
    assert flipped.boxes.edges[1].tolist() == [WIDTH - right, top, WIDTH - left, bottom]
    scaled = Resize(height=2 * HEIGHT, width=WIDTH // 2)(sample, generator)
    assert scaled.boxes is not None
    assert scaled.boxes.edges[1].tolist() == [left / 2, 2 * top, right / 2, 2 * bottom]
    window = RandomCrop(height=20, width=30)(sample, generator)
    assert window.boxes is not None
    rows, columns = window.boxes.windows((20, 30))[0]
    assert not window.valid["semantic"][rows, columns].any()
    batch = collate([sample, data[1]], "semantic")
    assert batch.target.boxes is not None
    assert [one is not None for one in batch.target.boxes] == [True, True]
    short = ClassFolder(root=tmp_path, labels=file.name, classes=classes, short_side=30)[0]
    assert short.boxes is not None
    assert short.boxes.edges[1].tolist() == [left / 2, top / 2, right / 2, bottom / 2]
    with pytest.raises(InputError, match="boxes of value 0, which is no class: add it to classes"):
        ClassFolder(root=tmp_path, labels=file.name, classes={"house": 8, "grass": 3}, ignored=[0])[
            0
        ]
