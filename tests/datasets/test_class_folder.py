"""A user's own classes: what is stored for each, and what can be wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.contracts import DatasetContract
from tests.datasets.disk import write_image

from diffsight.datasets import ClassFolder
from diffsight.errors import InputError

CLASSES = {"nothing": 0, "crack": [7, 3]}


def write(root: Path, count: int = 1) -> Path:
    """Columns of 0, 3, 7 and 255, six pixels wide each."""
    (root / "labels").mkdir(parents=True)
    values = np.repeat(np.array([[0, 3, 7, 255]], np.uint8), 6, axis=1).repeat(20, axis=0)
    for index in range(count):
        write_image(root / "images" / f"{index}.jpg", seed=index)
        Image.fromarray(values).save(root / "labels" / f"{index}.png")
    return root


class TestClassFolder(DatasetContract):
    def build(self, folder: Path) -> ClassFolder:
        root = folder / "cracks"
        return ClassFolder(
            root=root if root.exists() else write(root, 3), classes=CLASSES, ignored=[255]
        )


def test_values_are_classes_by_name(tmp_path: Path) -> None:
    data = ClassFolder(root=write(tmp_path / "cracks"), classes=CLASSES, ignored=[255])
    assert (data.name, data.class_names) == ("cracks", {"semantic": ("nothing", "crack")})
    sample = data[0]
    assert sample.id == "0"
    row = torch.tensor([0, 1, 1, 0]).repeat_interleave(6)
    assert torch.equal(sample.labels["semantic"], row.expand(20, 24))
    known = torch.tensor([True, True, True, False]).repeat_interleave(6)
    assert torch.equal(sample.valid["semantic"], known.expand(20, 24))


def test_no_label(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "labels" / "0.png").unlink()
    values = np.full((20, 24), 7.0)
    values[:3], values[3:5] = -1, np.nan
    np.save(tmp_path / "labels" / "0.npy", values)
    sample = ClassFolder(root=tmp_path, classes=CLASSES)[0]
    assert not sample.valid["semantic"][:5].any()
    assert sample.valid["semantic"][5:].all()
    assert (sample.labels["semantic"][5:] == 1).all()


def test_at_another_size(tmp_path: Path) -> None:
    sample = ClassFolder(root=write(tmp_path), classes=CLASSES, ignored=[255], short_side=40)[0]
    assert sample.image.shape == (3, 40, 48)
    row = torch.tensor([0, 1, 1, 0]).repeat_interleave(12)
    assert torch.equal(sample.labels["semantic"], row.expand(40, 48))
    assert sample.valid["semantic"].sum() == 40 * 36


def test_colours_and_palettes(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "labels" / "0.png"
    pixels = np.zeros((20, 24, 3), np.uint8)
    pixels[:4] = (255, 128, 0)
    Image.fromarray(pixels).save(path)
    coloured = {"floor": 0, "crack": 0xFF8000}
    with pytest.raises(InputError, match=r"no class: #ff8000 \(96 pixels\): add"):
        ClassFolder(root=tmp_path, classes={"floor": 0})[0]
    by_colour = ClassFolder(root=tmp_path, classes=coloured)[0].labels["semantic"]
    indices = Image.fromarray((pixels[..., 0] > 0).astype(np.uint8) * 9)
    indices.putpalette([0, 0, 0] * 9 + [1, 2, 3])
    indices.save(path)
    by_index = ClassFolder(root=tmp_path, classes={"floor": 0, "crack": 9})[0].labels["semantic"]
    assert torch.equal(by_colour, by_index)
    assert by_colour.sum() == 4 * 24


def test_sides_are_those_of_the_content(tmp_path: Path) -> None:
    write(tmp_path, 9)
    sides = [
        {data[i].id for i in range(len(data))}
        for data in (
            ClassFolder(
                root=tmp_path, classes=CLASSES, ignored=[255], split=split, val_fraction=0.4
            )
            for split in ("train", "val", "all")
        )
    ]
    assert sides[0] | sides[1] == sides[2]
    assert not sides[0] & sides[1]
    assert sides[1]
    assert len(sides[2]) == 9


def test_bad_input(tmp_path: Path) -> None:
    write(tmp_path)
    wrong = ClassFolder(root=tmp_path, classes={"crack": 3})
    with pytest.raises(
        InputError,
        match=r"0\.png: 3 value\(s\) of no class: 0 \(120 pixels\), 7 \(120 pixels\), 255 \(120 ",
    ):
        wrong[0]
    with pytest.raises(InputError, match="value 3 is both 'crack' and 'gap': choose one"):
        ClassFolder(root=tmp_path, classes={"crack": 3, "gap": [2, 3]})
    with pytest.raises(InputError, match="value 255 is both ignored and 'crack'"):
        ClassFolder(root=tmp_path, classes={"crack": 255}, ignored=[255])
    with pytest.raises(InputError, match="classes: none given"):
        ClassFolder(root=tmp_path, classes={})
    write_image(tmp_path / "images" / "0.jpg", size=(25, 20))
    with pytest.raises(InputError, match=r"0\.png: 24 x 20 pixels for an image .* of 25 x 20"):
        ClassFolder(root=tmp_path, classes=CLASSES)[0]
