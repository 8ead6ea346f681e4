"""Reading Cityscapes, and Mapillary Vistas with the classes of Cityscapes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support_datasets import CITYSCAPES_SCALE, write_cityscapes, write_mapillary
from tests.support_images import write_png_with_gamma

from diffsight.datasets import Cityscapes, MapillaryVistas
from diffsight.errors import InputError
from diffsight.label_maps import (
    CITYSCAPES_CATEGORIES,
    CITYSCAPES_CLASSES,
    CITYSCAPES_COLOURS,
    CITYSCAPES_IDS,
    MAPILLARY_TO_CITYSCAPES,
)


def test_label_ids_and_train_ids_give_the_same_classes(tmp_path: Path) -> None:
    ids = np.array([[7, 8, 33, 0], [26, 31, 1, 29]])
    classes = np.array([[0, 1, 18, 255], [13, 16, 255, 255]])
    write_cityscapes(tmp_path, ids)
    write_cityscapes(tmp_path, classes, "labelTrainIds")
    for kind in ("labelIds", "labelTrainIds"):
        (sample,) = list(Cityscapes(root=tmp_path, labels=kind))
        assert sample.id == "ulm_000000_000019"
        label = torch.where(sample.valid["semantic"], sample.labels["semantic"], 255)
        assert label[::CITYSCAPES_SCALE, ::CITYSCAPES_SCALE].tolist() == classes.tolist()


def test_the_gamma_that_the_images_state_is_not_applied(tmp_path: Path) -> None:
    label = write_cityscapes(tmp_path, np.full((4, 6), 7))
    (path,) = (tmp_path / "leftImg8bit").rglob("*.png")
    height, width = 4 * CITYSCAPES_SCALE, 6 * CITYSCAPES_SCALE
    stored = np.arange(height * width * 3).reshape(height, width, 3).astype(np.uint8)
    write_png_with_gamma(path, stored)
    with Image.open(label) as image:
        numbers = np.asarray(image)
    write_png_with_gamma(label, numbers)
    (sample,) = list(Cityscapes(root=tmp_path))
    assert torch.equal(sample.image.permute(1, 2, 0), torch.from_numpy(stored))
    assert (sample.labels["semantic"] == 0).all()
    assert sample.valid["semantic"].all()


def test_images_are_sorted_by_city_and_automatic_labels_are_read(tmp_path: Path) -> None:
    for city in ("zurich", "aachen"):
        write_cityscapes(tmp_path, np.full((4, 6), 7), city=city)
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


def test_class_tables_of_cityscapes_and_mapillary_are_consistent() -> None:
    assert len(CITYSCAPES_CLASSES) == len(CITYSCAPES_IDS) == len(CITYSCAPES_COLOURS) == 19
    assert [CITYSCAPES_CLASSES[i] for i in (0, 6, 16, 18)] == [
        *("road", "traffic light", "train", "bicycle")
    ]
    assert (CITYSCAPES_IDS[0], CITYSCAPES_IDS[16], CITYSCAPES_COLOURS[0]) == (7, 31, (128, 64, 128))
    assert sorted(i for category in CITYSCAPES_CATEGORIES for i in category) == list(range(19))
    assert [len(category) for category in CITYSCAPES_CATEGORIES] == [2, 3, 3, 2, 1, 2, 6]
    numbers = [n for row in MAPILLARY_TO_CITYSCAPES for n in row]
    assert (len(MAPILLARY_TO_CITYSCAPES), len(numbers), len(set(numbers))) == (19, 25, 25)


def test_mapillary_labels_become_classes_of_cityscapes(tmp_path: Path) -> None:
    label = write_mapillary(tmp_path, np.array([[13, 41, 52], [65, 0, 30]]))
    (sample,) = list(MapillaryVistas(root=tmp_path))
    ids = torch.where(sample.valid["semantic"], sample.labels["semantic"], 255)
    assert ids[::CITYSCAPES_SCALE, ::CITYSCAPES_SCALE].tolist() == [[0, 0, 18], [255, 255, 8]]
    Image.fromarray(np.full((16, 24), 66, np.uint8)).save(label)
    with pytest.raises(
        InputError, match=r"a\.png: the value 66 does not occur in label files of version 1\.2"
    ):
        MapillaryVistas(root=tmp_path)[0]


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train: no such folder: root must contain leftImg8bit"):
        Cityscapes(root=tmp_path)
    label = write_cityscapes(tmp_path, np.full((4, 6), 200))
    with pytest.raises(
        InputError, match="the value 200 does not occur in label files of labelIds: choose other"
    ):
        Cityscapes(root=tmp_path)[0]
    with pytest.raises(InputError, match=r"_gtFine_labelTrainIds\.png is missing: unpack"):
        Cityscapes(root=tmp_path, labels="labelTrainIds")
    Image.new("L", (40, 32)).save(label)
    with pytest.raises(InputError, match=r"40 x 32 pixels for an image .* of 48 x 32"):
        Cityscapes(root=tmp_path)[0]
    for path in (tmp_path / "leftImg8bit").rglob("*.png"):
        path.unlink()
    with pytest.raises(InputError, match=r"no file \*_leftImg8bit\.png in the city folders"):
        Cityscapes(root=tmp_path)
