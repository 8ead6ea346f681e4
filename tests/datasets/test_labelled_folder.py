"""A folder of labelled images in memory: classes, order and values of the labels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support_datasets import write_labelled_images

from diffsight.datasets.base import Sample
from diffsight.datasets.labelled_folder import LabelledFolder, read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.errors import InputError
from diffsight.tasks import ClassPrediction

FORM = LabelFormat("segmentation")


def make_colour_mask(*colours: tuple[int, int, int]) -> np.ndarray:
    """Return a mask of 20 x 30 pixels with a column of 10 pixels for each colour."""
    mask = np.zeros((20, 30, 3), np.uint8)
    for number, colour in enumerate(colours):
        mask[:, 10 * number : 10 * number + 10] = colour
    return mask


def test_dark_colours_are_colours_and_not_ids(tmp_path: Path) -> None:
    folders = write_labelled_images(
        tmp_path, [make_colour_mask((0, 0, 0), (0, 0, 255), (0, 200, 0))] * 2
    )
    folder = read_labelled_folder(*folders, FORM)
    assert folder.ids == (0, 255, 200 << 8)
    assert folder.names == ("#000000", "#0000ff", "#00c800")
    assert all(bool(sample.valid["semantic"].all()) for sample in folder)
    named = read_labelled_folder(*folders, FORM, classes=("ground", "water", "plant"))
    assert named.names == ("ground", "water", "plant")
    ids = torch.tensor([folder.ids])
    prediction = ClassPrediction(
        ids,
        torch.ones(1, 3),
        dict(zip(folder.ids, folder.names, strict=True)),
        dict(zip(folder.ids, folder.colours, strict=True)),
    )
    assert prediction.ids_are_colours


def test_names_belong_to_colours_in_ascending_order(tmp_path: Path) -> None:
    folders = write_labelled_images(
        tmp_path, [make_colour_mask((255, 0, 0), (0, 200, 0), (0, 0, 255))] * 2
    )
    folder = read_labelled_folder(*folders, FORM, classes=("sea", "grass", "roof"))
    assert folder.ids_are_colours
    assert folder.colours == ((0, 0, 255), (0, 200, 0), (255, 0, 0))
    with pytest.raises(InputError) as error:
        read_labelled_folder(*folders, FORM, classes=("sea", "grass"))
    assert "3 colours: #0000ff (400 px), #00c800 (400 px), #ff0000 (400 px): give one name" in str(
        error.value
    )


def test_two_classes_with_the_same_name_are_refused(tmp_path: Path) -> None:
    ids = np.arange(600, dtype=np.uint8).reshape(20, 30) % 3
    folders = write_labelled_images(tmp_path, [ids])
    assert read_labelled_folder(*folders, FORM, classes=("wall", "floor", "door")).ids == (0, 1, 2)
    with pytest.raises(InputError, match="2 classes are named 'wall': use different names"):
        read_labelled_folder(*folders, FORM, classes=("wall", "floor", "wall"))


def test_white_in_black_and_white_masks_is_a_class_unless_marked_invalid(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[:, 20:] = 255
    folders = write_labelled_images(tmp_path, [mask, mask])
    for form, classes in ((FORM, ()), (FORM, ("ground", "crack")), (replace(FORM, invalid=-1), ())):
        folder = read_labelled_folder(*folders, form, classes=classes)
        assert folder.ids == (0, 255)
        assert folder.names == (classes or ("class 0", "class 255"))
        assert all(bool(sample.valid["semantic"].all()) for sample in folder)
    for invalid in (255, 7):
        mask[:, 20:] = invalid
        for number in range(2):
            Image.fromarray(mask).save(folders[1] / f"{number}.png")
        with pytest.raises(
            InputError, match="have the class 0, but at least two classes are needed"
        ):
            read_labelled_folder(*folders, LabelFormat("segmentation", invalid=invalid))


def test_names_do_not_affect_the_order_of_copies_of_an_image(tmp_path: Path) -> None:
    labels = [np.full((20, 30), number, np.uint16) for number in range(1, 7)]
    orders = []
    for name in "ab":
        (tmp_path / name).mkdir()
        images, masks = write_labelled_images(tmp_path / name, labels)
        for path in images.iterdir():
            Image.new("RGB", (30, 20)).save(path)
        folder = read_labelled_folder(images, masks, LabelFormat("scalar"))
        orders.append([float(sample.labels["values"].mean()) for sample in folder])
        labels.reverse()
    assert orders[0] == orders[1]


def test_mixed_ids_and_colours_in_one_folder_are_refused(tmp_path: Path) -> None:
    ids = np.zeros((20, 30), np.uint8)
    ids[:, 10:] = 1
    folders = write_labelled_images(
        tmp_path, [ids, make_colour_mask((0, 0, 0), (255, 255, 255)), ids]
    )
    with pytest.raises(InputError, match=r"contains (colours|one channel of ids), but .*same form"):
        read_labelled_folder(*folders, FORM)


def test_depth_maps_are_refused_as_class_masks(tmp_path: Path) -> None:
    counts = np.arange(40 * 50, dtype=np.uint16).reshape(40, 50)
    folders = write_labelled_images(tmp_path, [counts, counts])
    with pytest.raises(InputError, match=r"labels: 1999 different values are too many"):
        read_labelled_folder(*folders, FORM)


def test_sampled_values_come_from_all_columns_and_are_the_same_every_time() -> None:
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
    assert len(values.unique()) > 100_000  # different pixels in every image
    assert torch.equal(values, folder.values())


def test_classes_are_numbered_from_zero_and_unlabelled_pixels_are_zero(tmp_path: Path) -> None:
    ids = np.full((20, 30), 7, np.uint8)
    ids[:, 10:20] = 9
    ids[:, 20:] = 255
    folder = read_labelled_folder(*write_labelled_images(tmp_path, [ids]), FORM)
    (sample,) = folder
    label = sample.labels["semantic"]
    assert label.dtype == torch.int64
    assert label[0, ::10].tolist() == [0, 1, 0]
    assert sample.valid["semantic"][0, ::10].tolist() == [True, True, False]
    assert folder.class_names == {"semantic": ("class 7", "class 9")}


def test_validation_labels_get_the_class_numbers_of_the_training_set(tmp_path: Path) -> None:
    ids = np.zeros((20, 30), np.uint8)
    ids[:, 10:] = 5
    for name in "ab":
        (tmp_path / name).mkdir()
    first = read_labelled_folder(
        *write_labelled_images(tmp_path / "a", [ids]), FORM, classes=tuple("abcdef")
    )
    ids[:, 20:] = 3
    folders = write_labelled_images(tmp_path / "b", [ids])
    more = read_labelled_folder(*folders, FORM, like=first)
    assert more.names == first.names
    assert more[0].labels["semantic"][0, ::10].tolist() == [0, 5, 3]
    with pytest.raises(InputError, match=r"contains the class 3, which is not in the training set"):
        read_labelled_folder(
            *folders, FORM, like=LabelledFolder(FORM, first.samples, ids=(0, 5), names=("a", "f"))
        )
