"""The layouts of Cityscapes and of Mapillary Vistas, written small."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffsight.datasets import Cityscapes, MapillaryVistas
from diffsight.errors import InputError
from diffsight.label_maps import (
    CITYSCAPES_CATEGORIES,
    CITYSCAPES_CLASSES,
    CITYSCAPES_COLOURS,
    CITYSCAPES_IDS,
    MAPILLARY_TO_CITYSCAPES,
)

SCALE = 8


def enlarged(numbers: np.ndarray) -> np.ndarray:
    """Return an array with squares of 8 x 8 pixels in place of its own."""
    return np.kron(numbers, np.ones((SCALE, SCALE))).astype(np.uint8)


def write(root: Path, numbers: np.ndarray, kind: str = "labelIds", city: str = "ulm") -> Path:
    """Write one image and its label, enlarged; return the label's path."""
    numbers = enlarged(numbers)
    name = f"{city}_000000_000019"
    image = root / "leftImg8bit" / "train" / city / f"{name}_leftImg8bit.png"
    label = root / "gtFine" / "train" / city / f"{name}_gtFine_{kind}.png"
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", numbers.shape[::-1], (9, 8, 7)).save(image)
    Image.fromarray(numbers).save(label)
    return label


def write_mapillary(root: Path, numbers: np.ndarray) -> Path:
    """Write one image of Mapillary Vistas and its label, enlarged; return the label's path."""
    numbers = enlarged(numbers)
    for part in ("images", "labels"):
        (root / "training" / part).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", numbers.shape[::-1]).save(root / "training" / "images" / "a.jpg")
    label = root / "training" / "labels" / "a.png"
    Image.fromarray(numbers).save(label)
    return label


def test_both_kinds_of_labels_have_the_same_classes(tmp_path: Path) -> None:
    ids = np.array([[7, 8, 33, 0], [26, 31, 1, 29]])
    classes = np.array([[0, 1, 18, 255], [13, 16, 255, 255]])
    write(tmp_path, ids)
    write(tmp_path, classes, "labelTrainIds")
    for kind in ("labelIds", "labelTrainIds"):
        (sample,) = list(Cityscapes(root=tmp_path, labels=kind))
        assert sample.id == "ulm_000000_000019"
        ids_found, valid = sample.labels["semantic"], sample.valid["semantic"]
        found = torch.where(valid, ids_found, 255)[::SCALE, ::SCALE]
        assert found.tolist() == classes.tolist()


def test_cities_and_automatic_labels(tmp_path: Path) -> None:
    for city in ("zurich", "aachen"):
        write(tmp_path, np.full((4, 6), 7), city=city)
    assert [s.id[:6] for s in Cityscapes(root=tmp_path)] == ["aachen", "zurich"]
    image = tmp_path / "leftImg8bit" / "train_extra" / "bonn" / "bonn_1_2_leftImg8bit.png"
    label = tmp_path / "convert_autolabelled" / "bonn" / "bonn_1_2_leftImg8bit.png"
    for path in (image, label):
        path.parent.mkdir(parents=True)
    Image.new("RGB", (20, 16)).save(image)
    Image.fromarray(np.full((16, 20), 18, np.uint8)).save(label)
    data = Cityscapes(root=tmp_path, automatic=True)
    assert (data.name, len(data)) == ("cityscapes-extra", 1)
    assert (data[0].labels["semantic"] == 18).all()


def test_tables() -> None:
    assert len(CITYSCAPES_CLASSES) == len(CITYSCAPES_IDS) == len(CITYSCAPES_COLOURS) == 19
    assert [CITYSCAPES_CLASSES[i] for i in (0, 6, 16, 18)] == [
        *("road", "traffic light", "train", "bicycle")
    ]
    assert (CITYSCAPES_IDS[0], CITYSCAPES_IDS[16], CITYSCAPES_COLOURS[0]) == (7, 31, (128, 64, 128))
    assert sorted(i for one in CITYSCAPES_CATEGORIES for i in one) == list(range(19))
    assert [len(one) for one in CITYSCAPES_CATEGORIES] == [2, 3, 3, 2, 1, 2, 6]
    numbers = [n for one in MAPILLARY_TO_CITYSCAPES for n in one]
    assert (len(MAPILLARY_TO_CITYSCAPES), len(numbers), len(set(numbers))) == (19, 25, 25)


def test_mapillary_in_classes_of_cityscapes(tmp_path: Path) -> None:
    label = write_mapillary(tmp_path, np.array([[13, 41, 52], [65, 0, 30]]))
    (sample,) = list(MapillaryVistas(root=tmp_path))
    found = torch.where(sample.valid["semantic"], sample.labels["semantic"], 255)
    found = found[::SCALE, ::SCALE]
    assert found.tolist() == [[0, 0, 18], [255, 255, 8]]
    Image.fromarray(np.full((16, 24), 66, np.uint8)).save(label)
    with pytest.raises(InputError, match=r"a\.png: number 66 is none of labels of version 1\.2"):
        MapillaryVistas(root=tmp_path)[0]


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train: no such folder: root holds leftImg8bit"):
        Cityscapes(root=tmp_path)
    label = write(tmp_path, np.full((4, 6), 200))
    with pytest.raises(InputError, match="number 200 is none of labelIds: read other labels"):
        Cityscapes(root=tmp_path)[0]
    with pytest.raises(InputError, match=r"_gtFine_labelTrainIds\.png is missing: unpack"):
        Cityscapes(root=tmp_path, labels="labelTrainIds")
    Image.new("L", (40, 32)).save(label)
    with pytest.raises(InputError, match=r"40 x 32 pixels for an image .* of 48 x 32"):
        Cityscapes(root=tmp_path)[0]
    for path in (tmp_path / "leftImg8bit").rglob("*.png"):
        path.unlink()
    with pytest.raises(InputError, match=r"no \*_leftImg8bit\.png in the folders of its cities"):
        Cityscapes(root=tmp_path)
