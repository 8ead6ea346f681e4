"""Contract tests of the data sets that have none in their own test module."""

from pathlib import Path

import numpy as np
import pytest
from tests.contracts import DatasetContract
from tests.support_datasets import (
    write_ade20k,
    write_ade20k_full,
    write_captions,
    write_cityscapes,
    write_labelled_images,
    write_mapillary,
)
from tests.support_nyu import TRAIN, write_normals, write_nyu_pair
from tests.support_refcoco import write_refcoco
from tests.support_taskonomy import write_views

from diffsight.datasets import (
    ADE20K,
    ADE20KFull,
    Captioned,
    Cityscapes,
    Concatenated,
    MapillaryVistas,
    NYUFewShotDepth,
    NYUNormals,
    RefCOCO,
    Taskonomy,
)
from diffsight.datasets.labelled_folder import LabelledFolder, read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.errors import InputError
from diffsight.label_maps import ADE20K_FULL
from diffsight.rooms import ReferringRooms, Rooms

CLASSES = np.tile(np.arange(0, 3, dtype=np.uint8), (20, 10))


class TestADE20K(DatasetContract):
    def build(self, folder: Path) -> ADE20K:
        for number in range(2):
            write_ade20k(folder, CLASSES, name=f"ADE_{number}")
        return ADE20K(root=folder)


class TestADE20KFull(DatasetContract):
    def build(self, folder: Path) -> ADE20KFull:
        number = next(iter(ADE20K_FULL))
        write_ade20k_full(folder / "images", np.full((20, 30), number, np.int64))
        return ADE20KFull(root=folder)


class TestCityscapes(DatasetContract):
    def build(self, folder: Path) -> Cityscapes:
        for city in ("aachen", "ulm"):
            write_cityscapes(folder, np.array([[7, 8, 0], [33, 26, 11]]), city=city)
        return Cityscapes(root=folder)


class TestConcatenated(DatasetContract):
    def build(self, folder: Path) -> Concatenated:
        write_cityscapes(folder, np.array([[7, 8, 0], [33, 26, 11]]), city="ulm")
        write_mapillary(folder / "m", np.array([[13, 41, 52], [65, 0, 30]]))
        cities, vistas = Cityscapes(root=folder), MapillaryVistas(root=folder / "m")
        return Concatenated(datasets=[cities, vistas])


def test_concatenated_data_sets_keep_their_order_and_require_equal_classes(
    tmp_path: Path,
) -> None:
    data = TestConcatenated().build(tmp_path)
    ids = [sample.id.split("/")[0] for sample in data]
    assert ids == sorted(ids)
    assert len(set(ids)) == 2
    rooms = Rooms("val", 2, 32, labels=("semantic",))
    with pytest.raises(InputError, match="rooms-val has other classes"):
        Concatenated(datasets=[data, rooms])
    with pytest.raises(InputError, match="cannot concatenate the data sets"):
        Concatenated(datasets=[rooms, rooms])


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ((None, None), None),
        ((None, "caption"), "caption"),
        (("oracle-scene", "caption"), "caption and oracle-scene"),
    ],
)
def test_concatenated_data_sets_name_all_sources_of_their_prompts(
    sources: tuple[str | None, ...], expected: str | None
) -> None:
    parts = [Rooms(split, count=1, size=16) for split in ("train", "val")]
    for part, source in zip(parts, sources, strict=True):
        part.prompt_source = source
    assert Concatenated(datasets=parts).prompt_source == expected


class TestMapillaryVistas(DatasetContract):
    def build(self, folder: Path) -> MapillaryVistas:
        write_mapillary(folder, np.array([[13, 41, 52], [65, 0, 30]]))
        return MapillaryVistas(root=folder)


class TestRefCOCO(DatasetContract):
    def build(self, folder: Path) -> RefCOCO:
        if not (folder / "refcoco").exists():
            write_refcoco(folder)
        return RefCOCO(root=folder, size=None)


class TestCaptioned(DatasetContract):
    def build(self, folder: Path) -> Captioned:
        rooms = Rooms(count=2, size=16)
        captions = {rooms[i].id: f"room {i}" for i in range(2)}
        path = write_captions(folder / "captions.json", captions)
        return Captioned(dataset=rooms, captions=path)


class TestReferringRooms(DatasetContract):
    def build(self, folder: Path) -> ReferringRooms:
        return ReferringRooms("val", count=2, size=32)


class TestLabelledFolder(DatasetContract):
    def build(self, folder: Path) -> LabelledFolder:
        images, labels = folder / "images", folder / "labels"
        if not images.exists():
            write_labelled_images(folder, [CLASSES, CLASSES.T.copy()])
        return read_labelled_folder(images, labels, LabelFormat("segmentation"))


class TestNYUFewShotDepth(DatasetContract):
    def build(self, folder: Path) -> NYUFewShotDepth:
        for number in (3, 7):
            write_nyu_pair(folder, TRAIN, number)
        return NYUFewShotDepth(root=folder)


class TestNYUNormals(DatasetContract):
    def build(self, folder: Path) -> NYUNormals:
        write_nyu_pair(folder, TRAIN, 3)
        write_normals(folder / "normals" / TRAIN / "rgb_00003")
        return NYUNormals(root=folder, normals=folder / "normals")


class TestTaskonomy(DatasetContract):
    def build(self, folder: Path) -> Taskonomy:
        root = folder / "taskonomy"
        if not root.exists():
            write_views(root)
        return Taskonomy(root=root, task="normal", split="muleshoe")


class TestTaskonomySegmentation(DatasetContract):
    def build(self, folder: Path) -> Taskonomy:
        root = folder / "taskonomy"
        if not root.exists():
            write_views(root)
        return Taskonomy(root=root, task="segment_semantic", split="muleshoe")
