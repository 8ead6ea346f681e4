"""A folder of labelled images: the classes, order and values of its labels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffsight.datasets.base import Sample
from diffsight.datasets.labelled_folder import LabelledFolder, read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.errors import InputError
from diffsight.tasks import ClassPrediction

FORM = LabelFormat("segmentation")


def folders(where: Path, labels: list[np.ndarray]) -> tuple[Path, Path]:
    images, masks = where / "images", where / "labels"
    images.mkdir()
    masks.mkdir()
    for number, label in enumerate(labels):
        image = np.random.default_rng(number).integers(0, 255, (*label.shape[:2], 3), np.uint8)
        Image.fromarray(image).save(images / f"{number}.png")
        Image.fromarray(label).save(masks / f"{number}.png")
    return images, masks


def coloured(*colours: tuple[int, int, int]) -> np.ndarray:
    picture = np.zeros((20, 30, 3), np.uint8)
    for number, colour in enumerate(colours):
        picture[:, 10 * number : 10 * number + 10] = colour
    return picture


def test_classes_of_dark_colours(tmp_path: Path) -> None:
    where = folders(tmp_path, [coloured((0, 0, 0), (0, 0, 255), (0, 200, 0))] * 2)
    folder = read_labelled_folder(*where, FORM)
    assert folder.ids == (0, 255, 200 << 8)
    assert folder.names == ("#000000", "#0000ff", "#00c800")
    assert all(bool(sample.valid["semantic"].all()) for sample in folder)
    named = read_labelled_folder(*where, FORM, classes=("ground", "water", "plant"))
    assert named.names == ("ground", "water", "plant")
    ids = torch.tensor([folder.ids])
    found = ClassPrediction(
        ids,
        torch.ones(1, 3),
        dict(zip(folder.ids, folder.names, strict=True)),
        dict(zip(folder.ids, folder.colours, strict=True)),
    )
    assert found.ids_are_colours


def test_names_go_to_colours_in_ascending_order(tmp_path: Path) -> None:
    where = folders(tmp_path, [coloured((255, 0, 0), (0, 200, 0), (0, 0, 255))] * 2)
    folder = read_labelled_folder(*where, FORM, classes=("sea", "grass", "roof"))
    assert folder.ids_are_colours
    assert folder.colours == ((0, 0, 255), (0, 200, 0), (255, 0, 0))
    with pytest.raises(InputError) as error:
        read_labelled_folder(*where, FORM, classes=("sea", "grass"))
    assert "3 colours: #0000ff (400 px), #00c800 (400 px), #ff0000 (400 px): give" in str(
        error.value
    )


def test_two_classes_of_one_name_are_refused(tmp_path: Path) -> None:
    ids = np.arange(600, dtype=np.uint8).reshape(20, 30) % 3
    where = folders(tmp_path, [ids])
    assert read_labelled_folder(*where, FORM, classes=("wall", "floor", "door")).ids == (0, 1, 2)
    with pytest.raises(InputError, match="2 classes are named 'wall': give each a name of its own"):
        read_labelled_folder(*where, FORM, classes=("wall", "floor", "wall"))


def test_black_and_white_masks(tmp_path: Path) -> None:
    """Their white is a class, unless it is named as the marker of no label."""
    mask = np.zeros((20, 30), np.uint8)
    mask[:, 20:] = 255
    where = folders(tmp_path, [mask, mask])
    for form, classes in ((FORM, ()), (FORM, ("ground", "crack")), (replace(FORM, invalid=-1), ())):
        folder = read_labelled_folder(*where, form, classes=classes)
        assert folder.ids == (0, 255)
        assert folder.names == (classes or ("class 0", "class 255"))
        assert all(bool(sample.valid["semantic"].all()) for sample in folder)
    for invalid in (255, 7):
        mask[:, 20:] = invalid
        for number in range(2):
            Image.fromarray(mask).save(where[1] / f"{number}.png")
        with pytest.raises(InputError, match="of class 0: there is nothing to tell apart"):
            read_labelled_folder(*where, LabelFormat("segmentation", invalid=invalid))


def test_copies_of_an_image_are_in_the_order_of_their_labels(tmp_path: Path) -> None:
    labels = [np.full((20, 30), number, np.uint16) for number in range(1, 7)]
    orders = []
    for name in "ab":
        (tmp_path / name).mkdir()
        images, masks = folders(tmp_path / name, labels)
        for path in images.iterdir():
            Image.new("RGB", (30, 20)).save(path)
        folder = read_labelled_folder(images, masks, LabelFormat("scalar"))
        orders.append([float(sample.labels["values"].mean()) for sample in folder])
        labels.reverse()
    assert orders[0] == orders[1]


def test_ids_and_colours_in_one_folder_are_refused(tmp_path: Path) -> None:
    ids = np.zeros((20, 30), np.uint8)
    ids[:, 10:] = 1
    where = folders(tmp_path, [ids, coloured((0, 0, 0), (255, 255, 255)), ids])
    with pytest.raises(InputError, match=r"holds (colours|one channel of ids), but .*one form"):
        read_labelled_folder(*where, FORM)


def test_a_depth_map_is_refused_as_classes(tmp_path: Path) -> None:
    counts = np.arange(40 * 50, dtype=np.uint16).reshape(40, 50)
    where = folders(tmp_path, [counts, counts])
    with pytest.raises(InputError, match=r"labels: 1999 different numbers are no classes"):
        read_labelled_folder(*where, FORM)


def test_values_are_drawn_from_every_column() -> None:
    positions = torch.arange(480.0 * 640).reshape(1, 480, 640)
    sample = Sample(
        "id",
        torch.zeros(3, 480, 640, dtype=torch.uint8),
        {"values": positions},
        {"values": torch.ones(480, 640).bool()},
    )
    folder = LabelledFolder(LabelFormat("scalar"), (sample,) * 10)
    values = folder.values()
    assert len(values) == 200_000
    assert len((values % 640).unique()) == 640
    assert len(values.unique()) > 100_000  # other pixels in every image
    assert torch.equal(values, folder.values())


def test_classes_are_numbered_from_zero_and_unlabelled_pixels_are_zero(tmp_path: Path) -> None:
    ids = np.full((20, 30), 7, np.uint8)
    ids[:, 10:20] = 9
    ids[:, 20:] = 255
    folder = read_labelled_folder(*folders(tmp_path, [ids]), FORM)
    (sample,) = folder
    label = sample.labels["semantic"]
    assert label.dtype == torch.int64
    assert label[0, ::10].tolist() == [0, 1, 0]
    assert sample.valid["semantic"][0, ::10].tolist() == [True, True, False]
    assert folder.class_names == {"semantic": ("class 7", "class 9")}


def test_further_images_have_the_classes_of_the_first(tmp_path: Path) -> None:
    ids = np.zeros((20, 30), np.uint8)
    ids[:, 10:] = 5
    for name in "ab":
        (tmp_path / name).mkdir()
    first = read_labelled_folder(*folders(tmp_path / "a", [ids]), FORM, classes=tuple("abcdef"))
    ids[:, 20:] = 3
    where = folders(tmp_path / "b", [ids])
    more = read_labelled_folder(*where, FORM, like=first)
    assert more.names == first.names
    assert more[0].labels["semantic"][0, ::10].tolist() == [0, 5, 3]
    with pytest.raises(InputError, match=r"holds class 3, of which nothing is learned"):
        read_labelled_folder(
            *where, FORM, like=LabelledFolder(FORM, first.samples, ids=(0, 5), names=("a", "f"))
        )
