"""A folder of images and class maps: stored values, colours, splits and errors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.contracts import DatasetContract
from tests.support_images import write_image
from tests.support_labels import write_coco, write_folder

from diffsight.datasets import ClassFolder
from diffsight.errors import InputError

CLASSES = {"nothing": 0, "crack": [7, 3]}


def write_columns(root: Path, count: int = 1) -> Path:
    """Write images, and labels with columns of 0, 3, 7 and 255 that are six pixels wide each."""
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
            root=root if root.exists() else write_columns(root, 3), classes=CLASSES, ignored=[255]
        )


def test_pixel_values_become_class_ids_in_the_order_of_the_names(tmp_path: Path) -> None:
    data = ClassFolder(root=write_columns(tmp_path / "cracks"), classes=CLASSES, ignored=[255])
    assert (data.name, data.class_names) == ("cracks", {"semantic": ("nothing", "crack")})
    sample = data[0]
    assert sample.id == "0"
    row = torch.tensor([0, 1, 1, 0]).repeat_interleave(6)
    assert torch.equal(sample.labels["semantic"], row.expand(20, 24))
    valid = torch.tensor([True, True, True, False]).repeat_interleave(6)
    assert torch.equal(sample.valid["semantic"], valid.expand(20, 24))


def test_minus_one_and_nan_mean_no_label(tmp_path: Path) -> None:
    write_columns(tmp_path)
    (tmp_path / "labels" / "0.png").unlink()
    values = np.full((20, 24), 7.0)
    values[:3], values[3:5] = -1, np.nan
    np.save(tmp_path / "labels" / "0.npy", values)
    sample = ClassFolder(root=tmp_path, classes=CLASSES)[0]
    assert not sample.valid["semantic"][:5].any()
    assert sample.valid["semantic"][5:].all()
    assert (sample.labels["semantic"][5:] == 1).all()


def test_short_side_scales_image_and_labels(tmp_path: Path) -> None:
    sample = ClassFolder(
        root=write_columns(tmp_path), classes=CLASSES, ignored=[255], short_side=40
    )[0]
    assert sample.image.shape == (3, 40, 48)
    row = torch.tensor([0, 1, 1, 0]).repeat_interleave(12)
    assert torch.equal(sample.labels["semantic"], row.expand(40, 48))
    assert sample.valid["semantic"].sum() == 40 * 36


def test_a_colour_and_its_palette_index_give_the_same_label(tmp_path: Path) -> None:
    write_columns(tmp_path)
    path = tmp_path / "labels" / "0.png"
    pixels = np.zeros((20, 24, 3), np.uint8)
    pixels[:4] = (255, 128, 0)
    Image.fromarray(pixels).save(path)
    coloured = {"ground": 0, "crack": 0xFF8000}
    with pytest.raises(InputError, match=r"without a class: #ff8000 \(96 pixels\): add"):
        ClassFolder(root=tmp_path, classes={"ground": 0})[0]
    by_colour = ClassFolder(root=tmp_path, classes=coloured)[0].labels["semantic"]
    indices = Image.fromarray((pixels[..., 0] > 0).astype(np.uint8) * 9)
    indices.putpalette([0, 0, 0] * 9 + [1, 2, 3])
    indices.save(path)
    by_index = ClassFolder(root=tmp_path, classes={"ground": 0, "crack": 9})[0].labels["semantic"]
    assert torch.equal(by_colour, by_index)
    assert by_colour.sum() == 4 * 24


def test_train_and_val_are_disjoint_and_complete(tmp_path: Path) -> None:
    write_columns(tmp_path, 9)
    train, val, everything = (
        {data[i].id for i in range(len(data))}
        for data in (
            ClassFolder(
                root=tmp_path, classes=CLASSES, ignored=[255], split=split, val_fraction=0.4
            )
            for split in ("train", "val", "all")
        )
    )
    assert train | val == everything
    assert not train & val
    assert val
    assert len(everything) == 9


def test_bad_arguments_and_files_are_refused(tmp_path: Path) -> None:
    write_columns(tmp_path)
    wrong = ClassFolder(root=tmp_path, classes={"crack": 3})
    with pytest.raises(
        InputError,
        match=r"0\.png: 3 value\(s\) without a class: 0 \(120 pixels\), 7 \(120 pixels\), 255 ",
    ):
        wrong[0]
    with pytest.raises(InputError, match="value 3 is both 'crack' and 'gap': choose one"):
        ClassFolder(root=tmp_path, classes={"crack": 3, "gap": [2, 3]})
    with pytest.raises(InputError, match="value 255 is both ignored and 'crack'"):
        ClassFolder(root=tmp_path, classes={"crack": 255}, ignored=[255])
    with pytest.raises(InputError, match="classes is empty: give the stored value"):
        ClassFolder(root=tmp_path, classes={})
    write_image(tmp_path / "images" / "0.jpg", size=(25, 20))
    with pytest.raises(InputError, match=r"0\.png: 24 x 20 pixels for an image .* of 25 x 20"):
        ClassFolder(root=tmp_path, classes=CLASSES)[0]


def test_a_class_list_is_matched_by_name_with_labels_that_name_their_classes(
    tmp_path: Path,
) -> None:
    write_folder(tmp_path, None)
    write_coco(tmp_path / "instances.json")
    (tmp_path / "names.txt").write_text("house\nbackground\ngrass\n")
    plain = ClassFolder(root=tmp_path, labels="instances.json", classes=None)
    listed = ClassFolder(root=tmp_path, labels="instances.json", classes="names.txt")
    assert listed.class_names == {"semantic": ("house", "background", "grass")}
    for sample, other in zip(listed, plain, strict=True):
        expected = torch.tensor([1, 2, 0])[other.labels["semantic"]]
        assert torch.equal(sample.labels["semantic"], expected)
    (tmp_path / "names.txt").write_text("lawn\nbackground\nhouse\n")
    data = ClassFolder(root=tmp_path, labels="instances.json", classes="names.txt")
    with pytest.raises(
        InputError, match=r"instances\.json: class 'grass' is not in the list of cl"
    ):
        data[0]
