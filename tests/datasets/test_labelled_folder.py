"""Labelled images as the support of a task: what their classes are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffsight.datasets.labelled_folder import Example, Support, read_support
from diffsight.datasets.labels import LabelFormat
from diffsight.errors import InputError
from diffsight.types import ClassPrediction

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
    support = read_support(*where, FORM)
    assert support.ids == (0, 255, 200 << 8)
    assert support.names == ("#000000", "#0000ff", "#00c800")
    assert all(bool(example.valid.all()) for example in support.examples)
    named = read_support(*where, FORM, classes=("ground", "water", "plant"))
    assert named.names == ("ground", "water", "plant")
    ids = torch.tensor([support.ids])
    found = ClassPrediction(
        ids,
        torch.ones(1, 3),
        dict(zip(support.ids, support.names, strict=True)),
        dict(zip(support.ids, support.colours, strict=True)),
    )
    assert found.ids_are_colours


def test_names_go_to_colours_in_ascending_order(tmp_path: Path) -> None:
    where = folders(tmp_path, [coloured((255, 0, 0), (0, 200, 0), (0, 0, 255))] * 2)
    support = read_support(*where, FORM, classes=("sea", "grass", "roof"))
    assert support.ids_are_colours
    assert support.colours == ((0, 0, 255), (0, 200, 0), (255, 0, 0))
    with pytest.raises(InputError) as error:
        read_support(*where, FORM, classes=("sea", "grass"))
    assert "3 colours: #0000ff (400 px), #00c800 (400 px), #ff0000 (400 px): give" in str(
        error.value
    )


def test_two_classes_of_one_name(tmp_path: Path) -> None:
    ids = np.arange(600, dtype=np.uint8).reshape(20, 30) % 3
    where = folders(tmp_path, [ids])
    assert read_support(*where, FORM, classes=("wall", "floor", "door")).ids == (0, 1, 2)
    with pytest.raises(InputError, match="2 classes are named 'wall': give each a name of its own"):
        read_support(*where, FORM, classes=("wall", "floor", "wall"))


def test_black_and_white_masks(tmp_path: Path) -> None:
    """Their white is the default marker of no label."""
    mask = np.zeros((20, 30), np.uint8)
    mask[:, 20:] = 255
    where = folders(tmp_path, [mask, mask])
    for classes in ((), ("ground", "crack")):
        with pytest.raises(InputError, match=r"of class 0: 400 pixels of 255 .* --invalid -1 if"):
            read_support(*where, FORM, classes=classes)
    support = read_support(*where, LabelFormat("segmentation", invalid=-1))
    assert support.ids == (0, 255)
    assert all(bool(example.valid.all()) for example in support.examples)
    for invalid in (255, 7):
        mask[:, 20:] = invalid
        for number in range(2):
            Image.fromarray(mask).save(where[1] / f"{number}.png")
        with pytest.raises(InputError, match="of class 0: there is nothing to tell apart"):
            read_support(*where, LabelFormat("segmentation", invalid=invalid))


def test_copies_of_an_image_are_in_the_order_of_their_labels(tmp_path: Path) -> None:
    labels = [np.full((20, 30), number, np.uint16) for number in range(1, 7)]
    orders = []
    for name in "ab":
        (tmp_path / name).mkdir()
        images, masks = folders(tmp_path / name, labels)
        for path in images.iterdir():
            Image.new("RGB", (30, 20)).save(path)
        support = read_support(images, masks, LabelFormat("scalar"))
        orders.append([float(example.value.mean()) for example in support.examples])
        labels.reverse()
    assert orders[0] == orders[1]


def test_ids_and_colours_do_not_mix(tmp_path: Path) -> None:
    ids = np.zeros((20, 30), np.uint8)
    ids[:, 10:] = 1
    where = folders(tmp_path, [ids, coloured((0, 0, 0), (255, 255, 255)), ids])
    with pytest.raises(InputError, match=r"holds (colours|one channel of ids), but .*one form"):
        read_support(*where, FORM)


def test_depth_is_no_classes(tmp_path: Path) -> None:
    counts = np.arange(40 * 50, dtype=np.uint16).reshape(40, 50)
    where = folders(tmp_path, [counts, counts])
    with pytest.raises(InputError, match=r"labels: 1999 different numbers are no classes"):
        read_support(*where, FORM)


def test_values_are_drawn_from_every_column() -> None:
    places = torch.arange(480.0 * 640).reshape(1, 480, 640)
    example = Example(
        "id", torch.zeros(3, 480, 640, dtype=torch.uint8), places, torch.ones(480, 640).bool()
    )
    support = Support(LabelFormat("scalar"), (example,) * 10)
    values = support.values()
    assert len(values) == 200_000
    assert len((values % 640).unique()) == 640
    assert len(values.unique()) > 100_000  # other places in every image
    assert torch.equal(values, support.values())
