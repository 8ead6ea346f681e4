"""ADE20K's scene parsing layout, written small."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffsight.datasets import ADE20K
from diffsight.label_maps import ADE20K_CLASSES
from diffsight.types import InputError


def write(root: Path, values: np.ndarray, split: str = "training", name: str = "ADE_1") -> Path:
    for part in ("images", "annotations"):
        (root / part / split).mkdir(parents=True, exist_ok=True)
    height, width = values.shape
    Image.new("RGB", (width, height), (9, 8, 7)).save(root / "images" / split / f"{name}.jpg")
    Image.fromarray(values).save(root / "annotations" / split / f"{name}.png")
    return root


def test_annotations_count_from_one(tmp_path: Path) -> None:
    values = np.full((20, 30), 150, np.uint8)
    values[:5], values[5:10] = 0, 1
    root = write(write(tmp_path, values), values, "validation")
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


def test_names() -> None:
    assert len(set(ADE20K_CLASSES)) == 150
    assert ADE20K_CLASSES[:3] == ("wall", "building", "sky")
    assert all(name == name.strip() and name for name in ADE20K_CLASSES)


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="images/training: no such folder"):
        ADE20K(root=tmp_path)
    root = write(tmp_path, np.full((20, 30), 200, np.uint8))
    with pytest.raises(InputError, match=r"ADE_1\.png: class 200 of 150: take the annotations of"):
        ADE20K(root=root)[0]
    Image.new("RGB", (31, 20)).save(root / "images" / "training" / "ADE_1.jpg")
    with pytest.raises(InputError, match=r"30 x 20 pixels for an image .* of 31 x 20"):
        ADE20K(root=root)[0]
    (root / "annotations" / "training" / "ADE_1.png").unlink()
    with pytest.raises(InputError, match="annotation"):
        ADE20K(root=root)
