"""Reading ADE20K in the layouts of the scene parsing challenge and of the full set."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support_datasets import write_ade20k, write_ade20k_full

from diffsight.datasets import ADE20K, ADE20KFull
from diffsight.errors import InputError
from diffsight.label_maps import ADE20K_CLASSES, ADE20K_FULL


def test_annotation_values_are_class_ids_counted_from_one(tmp_path: Path) -> None:
    values = np.full((20, 30), 150, np.uint8)
    values[:5], values[5:10] = 0, 1
    root = write_ade20k(write_ade20k(tmp_path, values), values, "validation")
    data = ADE20K(root=root)
    (sample,) = [data[i] for i in range(len(data))]
    assert (data.name, sample.id) == ("ade20k-training", "ADE_1")
    ids, valid = sample.labels["semantic"], sample.valid["semantic"]
    assert ids.dtype == torch.int64
    assert (~valid[:5]).all()
    assert valid[5:].all()
    assert [int(ids[row, 0]) for row in (0, 5, 10)] == [0, 0, 149]
    assert data.class_names["semantic"][149] == "flag"
    assert len(ADE20K(root=root, split="validation")) == 1


def test_an_annotation_of_only_other_classes_has_no_scored_pixel(tmp_path: Path) -> None:
    sample = ADE20K(root=write_ade20k(tmp_path, np.zeros((20, 30), np.uint8)))[0]
    assert not sample.valid["semantic"].any()
    assert (sample.labels["semantic"] == 0).all()


def test_class_names_of_the_challenge() -> None:
    assert len(set(ADE20K_CLASSES)) == 150
    assert ADE20K_CLASSES[:3] == ("wall", "building", "sky")
    assert all(name == name.strip() and name for name in ADE20K_CLASSES)


def test_bad_challenge_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="images/training: no such folder"):
        ADE20K(root=tmp_path)
    root = write_ade20k(tmp_path, np.full((20, 30), 200, np.uint8))
    with pytest.raises(
        InputError, match=r"ADE_1\.png: class id 200 is above 150: use the annotations of"
    ):
        ADE20K(root=root)[0]
    Image.new("RGB", (31, 20)).save(root / "images" / "training" / "ADE_1.jpg")
    with pytest.raises(InputError, match=r"30 x 20 pixels for an image .* of 31 x 20"):
        ADE20K(root=root)[0]
    (root / "annotations" / "training" / "ADE_1.png").unlink()
    with pytest.raises(InputError, match="annotation"):
        ADE20K(root=root)


@pytest.mark.parametrize("layout", ["images", "images/ADE"])
def test_labels_of_the_full_set_become_challenge_classes(tmp_path: Path, layout: str) -> None:
    full = np.zeros((20, 30), np.int64)
    # wall, door, double door, window (not among the 150, unlike windowpane), flag
    full[4:8], full[8:12], full[12:16], full[16:18], full[18:] = 2978, 774, 783, 3050, 954
    write_ade20k_full(tmp_path / layout, full)
    (sample,) = list(ADE20KFull(root=tmp_path))
    ids, valid = sample.labels["semantic"], sample.valid["semantic"]
    assert sample.id == "ADE_train_00000001"
    names = [ADE20K_CLASSES[int(ids[row, 0])] if valid[row, 0] else None for row in range(0, 20, 2)]
    assert names == [None] * 2 + ["wall"] * 2 + ["door"] * 4 + [None, "flag"]
    assert (valid == valid[:, :1]).all()
    assert ids.dtype == torch.int64


def test_each_class_number_of_the_full_set_belongs_to_one_challenge_class() -> None:
    numbers = [number for row in ADE20K_FULL for number in row]
    assert (len(ADE20K_FULL), len(numbers)) == (150, 153)
    assert len(set(numbers)) == 153


@pytest.mark.realdata
def test_a_real_label_of_the_full_set_equals_its_challenge_annotation(
    tmp_path: Path,
) -> None:
    folder = os.environ.get("DIFFSIGHT_DATA_DIR")
    assert folder, "set DIFFSIGHT_DATA_DIR to the folder with the real data (it contains ade20k/)"
    pair = Path(folder) / "ade20k" / "convertFromADE"
    with Image.open(pair / "ADE_train_00000970_challenge.png") as image:
        truth = np.asarray(image)
    root = tmp_path / "images" / "training"
    root.mkdir(parents=True)
    shutil.copy(pair / "ADE_train_00000970_raw.png", root / "ADE_train_00000970_seg.png")
    with Image.open(root / "ADE_train_00000970_seg.png") as image:
        Image.new("RGB", image.size).save(root / "ADE_train_00000970.jpg")
    sample = ADE20KFull(root=tmp_path)[0]
    annotation = torch.where(sample.valid["semantic"], sample.labels["semantic"] + 1, 0)
    small = Image.fromarray(annotation.numpy().astype(np.uint8)).resize(
        truth.shape[::-1], Image.NEAREST
    )
    assert np.array_equal(np.asarray(small), truth)


def test_bad_full_set_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="images/training: no such folder; root must be the folder that"
    ):
        ADE20KFull(root=tmp_path)
    path = write_ade20k_full(tmp_path / "images", np.full((20, 30), 5))
    Image.new("RGB", (31, 20)).save(path)
    with pytest.raises(InputError, match=r"_seg\.png: 30 x 20 pixels for an image .* of 31 x 20"):
        ADE20KFull(root=tmp_path)[0]
    path.with_name(f"{path.stem}_seg.png").unlink()
    with pytest.raises(InputError, match=r"its label ADE_train_00000001_seg\.png is missing"):
        ADE20KFull(root=tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=r"no file ADE_\*\.jpg"):
        ADE20KFull(root=tmp_path)
