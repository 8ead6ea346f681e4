"""ADE20K's scene parsing layout, written small."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffsight.datasets import ADE20K, ADE20KFull
from diffsight.label_maps import ADE20K_CLASSES, ADE20K_SYNONYMS
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
    assert all(name == name.strip() and name for names in ADE20K_SYNONYMS for name in names)
    assert len(set(ADE20K_SYNONYMS)) == 150
    assert ADE20K_SYNONYMS[14] == ("door", "double door")


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


NAMES = {
    2978: "wall",
    774: "door, double door",
    700: "door",
    3: "flag",
    1831: "person, individual, someone, somebody, mortal, soul",
}


def write_full(root: Path, full: np.ndarray, names: dict[int, str] = NAMES) -> Path:
    """One image of the full set; returns its path."""
    folder = root / "images" / "ADE" / "training" / "home_or_hotel" / "hall"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ADE_train_00000001.jpg"
    Image.new("RGB", full.shape[::-1], (9, 8, 7)).save(path)
    # blue numbers the things of one class
    coded = np.stack([full // 256 * 10 + 7, full % 256, np.full_like(full, 3)], axis=-1)
    Image.fromarray(coded.astype(np.uint8)).save(path.with_name(f"{path.stem}_seg.png"))
    things = [{"id": 0, "name": name, "name_ndx": index} for index, name in names.items()]
    text = json.dumps({"annotation": {"object": things, "source": "caf\u00e9"}}, ensure_ascii=False)
    path.with_suffix(".json").write_bytes(text.encode("latin-1"))
    return path


def test_classes_of_the_full_set_are_found_by_all_their_names(tmp_path: Path) -> None:
    full = np.zeros((20, 30), np.int64)
    full[4:8], full[8:12], full[12:16], full[16:18], full[18:] = 2978, 774, 700, 3, 1831
    write_full(tmp_path, full)
    (sample,) = list(ADE20KFull(root=tmp_path))
    ids, valid = (kept["semantic"] for kept in (sample.labels, sample.valid))
    assert sample.id == "ADE_train_00000001"
    known = [ADE20K_CLASSES[int(ids[row, 0])] if valid[row, 0] else None for row in range(0, 20, 2)]
    # "door" alone is another class of the full set than "door, double door"
    wanted = [None] * 2 + ["wall"] * 2 + ["door"] * 2 + [None] * 2 + ["flag", "person"]
    assert known == wanted
    assert (valid == valid[:, :1]).all()
    assert ids.dtype == torch.int64


def test_bad_input_of_the_full_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="images/ADE/training: no such folder; root is the one"):
        ADE20KFull(root=tmp_path)
    path = write_full(tmp_path, np.full((20, 30), 5))
    with pytest.raises(InputError, match=r"_seg\.png: class 5 has no name in ADE_train_0.*1\.json"):
        ADE20KFull(root=tmp_path)[0]
    path.with_suffix(".json").write_text('{"annotation": []}')
    with pytest.raises(InputError, match=r"001\.json: not an annotation of ADE20K \(TypeError"):
        ADE20KFull(root=tmp_path)[0]
    Image.new("RGB", (31, 20)).save(path)
    with pytest.raises(InputError, match=r"_seg\.png: 30 x 20 pixels for an image .* of 31 x 20"):
        ADE20KFull(root=tmp_path)[0]
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match=r"ADE_train_00000001\.json is not beside it"):
        ADE20KFull(root=tmp_path)
    path.unlink()
    with pytest.raises(InputError, match="no JPEG image"):
        ADE20KFull(root=tmp_path)
