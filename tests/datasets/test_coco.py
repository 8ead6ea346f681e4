"""COCO files: outlines label their pixels, boxes leave theirs unlabelled."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
import torch
from tests.support_datasets import write_coco_with_boxes
from tests.support_labels import COUNT, HEIGHT, WIDTH, box, ids, write_coco, write_folder, write_png

from diffsight.datasets import ClassFolder
from diffsight.datasets.base import collate
from diffsight.datasets.class_lists import ClassList
from diffsight.datasets.labelled_folder import LabelledFolder, read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.datasets.pairs import content_hash
from diffsight.datasets.transforms import HorizontalFlip, RandomCrop, Resize
from diffsight.errors import InputError

FORM = LabelFormat("segmentation")


def samples_by_number(folder: LabelledFolder, images: Path) -> dict[int, Any]:
    """Return the samples by the number in the name of their image."""
    numbers = {content_hash(images / f"p{i}.jpg"): i for i in range(COUNT)}
    return {numbers[sample.id]: sample for sample in folder}


def test_pixels_outside_boxes_are_background_and_inside_unlabelled(tmp_path: Path) -> None:
    images, file = write_coco_with_boxes(tmp_path)
    folder = read_labelled_folder(images, file, FORM)
    assert folder.names == ("background", "grass", "house")
    assert folder.ids == (0, 3, 8)
    assert any("6 objects have a box but no outline" in note for note in folder.notes)
    for number, sample in samples_by_number(folder, images).items():
        label, valid = sample.labels["semantic"], sample.valid["semantic"]
        assert torch.equal(valid, torch.from_numpy(ids(number) == 0))
        assert not label.any()
        assert sample.boxes.class_ids.tolist() == [1, 2]
        top, bottom, left, right = box(number)
        assert sample.boxes.edges[1].tolist() == [left, top, right, bottom]
        assert sample.boxes.is_whole.all()
        assert sample.boxes.background == 0


def test_outlines_label_their_pixels_also_inside_a_box(tmp_path: Path) -> None:
    images, file = write_coco_with_boxes(tmp_path, boxed=(3,))
    folder = read_labelled_folder(images, file, FORM)
    for number, sample in samples_by_number(folder, images).items():
        classes = ids(number)
        valid = torch.from_numpy(classes != 1)
        assert torch.equal(sample.valid["semantic"], valid)
        expected = torch.from_numpy(np.where(classes == 2, 2, 0)).long()
        assert torch.equal(sample.labels["semantic"], expected)
        assert sample.boxes.class_ids.tolist() == [1]


def test_boxes_of_validation_images_get_the_class_ids_of_the_training_set(tmp_path: Path) -> None:
    masks = write_folder(
        tmp_path / "masks", lambda c, p: write_png(np.array([5, 9, 2], np.uint8)[c], p)
    )
    names = {2: "house", 5: "background", 9: "grass"}
    training_set = read_labelled_folder(*masks, FORM, classes=ClassList(names, "id"))
    images, file = write_coco_with_boxes(tmp_path / "boxes")
    folder = read_labelled_folder(images, file, FORM, like=training_set)
    for sample in folder:
        assert sample.boxes is not None
        assert sample.boxes.class_ids.tolist() == [2, 0]
        assert sample.boxes.background == 1
        assert (sample.labels["semantic"][sample.valid["semantic"]] == 1).all()
    two_classes = LabelledFolder(
        FORM, training_set.samples, ids=(5, 9), names=("background", "grass")
    )
    with pytest.raises(
        InputError, match="contains the class 'house', which is not in the training"
    ):
        read_labelled_folder(images, file, FORM, like=two_classes)


def test_an_image_without_labelled_pixels_is_used_if_it_has_boxes(tmp_path: Path) -> None:
    images, file = write_coco_with_boxes(tmp_path)
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
        ([1, 2, 0, 5], r"the box \[1, 2, 0, 5\] is outside photos/p0\.jpg \(90 x 60 pixels\)"),
        ([95, 2, 5, 5], r"the box \[95, 2, 5, 5\]"),
        ([1, 2, float("nan"), 5], r"the box \[1, 2, nan, 5\]"),
        ([1, 2, 3], r"not a COCO instances file"),
        (["a", 2, 3, 4], r"not a COCO instances file"),
    ],
)
def test_boxes_that_are_empty_outside_or_malformed_are_refused(
    edges: list[Any], message: str, tmp_path: Path
) -> None:
    images, file = write_coco_with_boxes(tmp_path)
    data = json.loads(file.read_text())
    data["annotations"][0]["bbox"] = edges
    file.write_text(json.dumps(data))
    with pytest.raises(InputError, match=message) as error:
        read_labelled_folder(images, file, FORM)
    assert "\n" not in str(error.value)


def test_class_folder_and_transforms_keep_boxes(tmp_path: Path) -> None:
    _, file = write_coco_with_boxes(tmp_path)
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
    assert [boxes is not None for boxes in batch.target.boxes] == [True, True]
    short = ClassFolder(root=tmp_path, labels=file.name, classes=classes, short_side=30)[0]
    assert short.boxes is not None
    assert short.boxes.edges[1].tolist() == [left / 2, top / 2, right / 2, bottom / 2]
    with pytest.raises(InputError, match="boxes use the value 0, which has no class: add it to"):
        ClassFolder(root=tmp_path, labels=file.name, classes={"house": 8, "grass": 3}, ignored=[0])[
            0
        ]


def encode_run_lengths(number: int, compressed: bool) -> dict:
    """Return the mask of class 2 with a hole, as a run-length encoding of COCO."""
    top, bottom, left, right = box(number)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[top:bottom, left:right] = 1
    mask[top + 9 : top + 15, left + 9 : left + 12] = 0  # a hole
    if compressed:
        runs = pycocotools.mask.encode(mask)
        return {"size": list(runs["size"]), "counts": runs["counts"].decode()}
    flat = mask.flatten(order="F")
    borders = np.flatnonzero(np.diff(flat)) + 1
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *borders, flat.size]).tolist()}


def make_polygons(number: int) -> list[list[float]]:
    """Return a triangle and a quadrilateral that depend on the number of the image."""
    left = 3.3 + number
    return [[left, 4.7, left + 21.5, 9.2, left + 9.9, 33.4], [50.5, 20.2, 70, 20, 70.6, 41, 55, 44]]


@pytest.mark.parametrize("form", ["parts", "runs", "compressed"])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_coco_shapes_are_rasterised_like_pycocotools(form: str, tmp_path: Path) -> None:
    def house(number: int) -> object:
        if form == "parts":
            return make_polygons(number)
        return encode_run_lengths(number, form == "compressed")

    folders = write_folder(tmp_path, None)
    folder = read_labelled_folder(folders[0], write_coco(tmp_path / "c.json", house=house), FORM)
    numbers = {content_hash(folders[0] / f"p{i}.jpg"): i for i in range(COUNT)}
    for sample in folder:
        number = numbers[sample.id]
        runs = house(number)
        if form != "compressed":
            runs = pycocotools.mask.frPyObjects(runs, HEIGHT, WIDTH)
        merged = pycocotools.mask.merge(runs) if form == "parts" else runs
        expected = pycocotools.mask.decode(merged).astype(bool)
        assert 100 < expected.sum() < expected.size
        assert ((sample.labels["semantic"].numpy() == 2) == expected).all()


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        ({"size": [HEIGHT, WIDTH], "counts": [1, 2]}, "run lengths that do not fill 90 x 60"),
        ({"size": [HEIGHT, WIDTH], "counts": "ooooooooooooooo"}, "run lengths that do not fill"),
        ({"size": [9, 9], "counts": [81]}, "run lengths that do not fill"),
        ([[0, 0, 1e12, 0, 1e12, 1e12]], "a corner lies far outside the image"),
        ([[0, 0, 5, 5]], "a polygon has three corners"),
        ([["a"] * 6], "a polygon has three corners"),
        ("abc", "not a COCO|no polygon|three corners"),
    ],
)
def test_malformed_outlines_are_refused(outline: object, message: str, tmp_path: Path) -> None:
    folders = write_folder(tmp_path, None)
    file = write_coco(tmp_path / "c.json", house=lambda number: outline)
    with pytest.raises(InputError, match=message):
        read_labelled_folder(folders[0], file, FORM)


def test_annotations_of_entries_with_the_same_file_are_merged(tmp_path: Path) -> None:
    images, _ = write_folder(tmp_path, None)
    file = write_coco(tmp_path / "c.json")
    data = json.loads(file.read_text())
    again = data["images"][0] | {"id": 100}
    data["images"].append(again)
    data["annotations"][0]["image_id"] = 100  # the grass, which the house covers
    file.write_text(json.dumps(data))
    folder = read_labelled_folder(images, file, FORM)
    for number, sample in samples_by_number(folder, images).items():
        assert (sample.labels["semantic"].numpy() == ids(number)).all()
    assert any("1 entries name the file of another entry" in note for note in folder.notes)
    again["height"] = 61
    file.write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"two images named 'photos/p0' .* 90 x 60.* 90 x 61"):
        read_labelled_folder(images, file, FORM)
    again |= {"height": HEIGHT, "file_name": "photos/p0.png"}
    file.write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"photos/p0\.jpg of .* and photos/p0\.png of"):
        read_labelled_folder(images, file, FORM)


def test_file_names_may_have_backslashes(tmp_path: Path) -> None:
    images, _ = write_folder(tmp_path, None)
    file = write_coco(tmp_path / "c.json")
    file.write_text(file.read_text().replace("photos/", "photos\\\\"))
    assert len(read_labelled_folder(images, file, FORM)) == COUNT


def test_an_annotation_of_an_unknown_image_is_refused(tmp_path: Path) -> None:
    images, _ = write_folder(tmp_path, None)
    file = write_coco(tmp_path / "c.json")
    file.write_text(file.read_text().replace('"image_id": 7', '"image_id": 999'))
    with pytest.raises(InputError, match=r"c\.json: image 999 is not in its list of images"):
        read_labelled_folder(images, file, FORM)
