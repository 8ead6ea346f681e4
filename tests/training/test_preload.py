"""Samples are read once, and then kept in memory and on disk."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from tests.support_datasets import write_coco_with_boxes
from tests.support_images import write_image
from tests.training.conftest import Stripes

from diffsight.datasets import ClassFolder
from diffsight.errors import InputError
from diffsight.rooms import Rooms
from diffsight.streets import Streets
from diffsight.training.preload import preload


@pytest.mark.parametrize("workers", [0, 2])
def test_preloaded_samples_are_equal_and_read_once(tmp_path, monkeypatch, workers):
    seen = []
    data = Rooms(split="val", count=3, size=16)
    first = preload(
        data, tmp_path, label="depth_m", workers=workers, progress=lambda: seen.append(1)
    )
    assert len(seen) == 3
    truth = [data[index] for index in range(3)]

    def unread(self, index):
        raise AssertionError("read again")

    monkeypatch.setattr(Rooms, "__getitem__", unread)
    again = preload(data, tmp_path, label="depth_m", workers=workers)
    for held in (first, again):
        assert (len(held), held.name) == (3, "rooms-val")
        for ours, theirs in zip((held[index] for index in range(3)), truth, strict=True):
            assert torch.equal(ours.image, theirs.image)
            assert ours.labels.keys() == ours.valid.keys() == {"depth_m"}
            assert torch.equal(ours.labels["depth_m"], theirs.labels["depth_m"])
            assert torch.equal(ours.valid["depth_m"], theirs.valid["depth_m"])
            assert theirs.prompt is not None
            assert theirs.camera is not None
            rest = replace(theirs, image=ours.image, labels=ours.labels, valid=ours.valid)
            assert vars(ours) == vars(rest)


@pytest.mark.parametrize("workers", [0, 2])
def test_preloaded_samples_keep_their_boxes(tmp_path, workers):
    write_coco_with_boxes(tmp_path)
    classes = {"background": 0, "grass": 3, "house": 8}
    data = ClassFolder(root=tmp_path, labels="boxes.json", classes=classes)
    for _ in range(2):
        kept = preload(data, tmp_path / "kept", label="semantic", workers=workers)
        for index in range(len(data)):
            ours, theirs = kept[index].boxes, data[index].boxes
            for name, value in vars(theirs).items():
                assert torch.equal(torch.as_tensor(getattr(ours, name)), torch.as_tensor(value))


def test_data_sets_that_differ_are_stored_in_different_files(tmp_path):
    preload(Stripes(length=3), tmp_path, label="depth_m")
    assert len(preload(Stripes(length=4), tmp_path, label="depth_m")) == 4
    assert len(preload(Stripes(length=4, broken=9), tmp_path, label="depth_m")) == 4


def test_a_relative_path_depends_on_the_working_directory(tmp_path, monkeypatch):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        preload(Stripes(length=3), tmp_path, label="depth_m")
    assert len(list(tmp_path.glob("*.samples"))) == 2


def test_the_error_of_a_damaged_file_or_impossible_folder_is_one_line(tmp_path):
    preload(Stripes(length=3), tmp_path, label="depth_m")
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:99])
    with pytest.raises(
        InputError, match=r"\.samples: not a complete file of samples \(.*\): delete it"
    ):
        preload(Stripes(length=3), tmp_path, label="depth_m")
    with pytest.raises(InputError, match=r"cannot be made \(Not a directory\): give another"):
        preload(Stripes(length=3), path / "folder", label="depth_m")


def test_no_file_remains_after_a_bad_sample_or_on_a_full_disk(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"stripe_2\.png: truncated"):
        preload(Stripes(broken=2), tmp_path, label="depth_m")

    def full(*_):
        raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"cannot be written \(unexpected pos 64 vs 0\)"):
        preload(Stripes(), tmp_path, label="depth_m")
    assert list(tmp_path.iterdir()) == []


def test_the_file_depends_on_the_order_of_classes(tmp_path):
    (tmp_path / "labels").mkdir()
    write_image(tmp_path / "images" / "a.png")
    Image.new("L", (24, 20), 3).save(tmp_path / "labels" / "a.png")
    orders = ({"wall": 3, "floor": 4}, {"floor": 4, "wall": 3})
    found = [
        preload(ClassFolder(root=tmp_path, classes=classes), tmp_path / "kept", label="semantic")
        for classes in orders
    ]
    assert [int(data[0].labels["semantic"].max()) for data in found] == [0, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_preloaded_samples_keep_their_rigs(tmp_path, workers):
    streets = Streets(count=2, image_hw=(16, 24), cells=8)
    for _ in range(2):  # first read from the data set, then from the file
        kept = preload(streets, tmp_path, label="map", workers=workers)
        for index in range(2):
            one, again = streets[index].rig, kept[index].rig
            assert torch.equal(again.images, one.images)
            assert torch.equal(again.points[0], one.points[0])
            assert kept[index].map_source is None
