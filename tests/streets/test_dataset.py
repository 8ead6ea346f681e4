"""``Streets``: samples, reproducibility, splits and errors."""

import hashlib

import pytest
import torch
from tests.support import assert_same_sample

from diffsight.config import to_config
from diffsight.datasets.base import collate
from diffsight.errors import InputError
from diffsight.streets import Streets

SMALL = (16, 40)


def test_a_sample_has_a_rig_and_a_map() -> None:
    sample = Streets("val", 4, (24, 40), seed=7)[1]
    assert sample.id == "streets-val-7-000001"
    assert sample.image.shape == (3, 48, 120)
    assert sample.labels["map"].shape == (6, 50, 50)
    assert sample.labels["map"].dtype == torch.float32
    assert set(sample.labels["map"].unique().tolist()) == {0.0, 1.0}
    assert sample.valid["map"].shape == (50, 50)
    assert sample.valid["map"].all()
    rig, source = sample.rig, sample.map_source
    assert rig is not None
    assert source is not None
    assert rig.images.shape == (1, 6, 3, 24, 40)
    assert rig.images.dtype == torch.uint8
    assert torch.equal(rig.image_change, torch.eye(4).expand(1, 6, 4, 4))
    assert rig.vehicle_change is None
    assert rig.points is not None
    assert rig.points[0].shape[1] == 5
    assert torch.equal(source.draw(torch.eye(4)), sample.labels["map"])
    # the middle of the upper row is the front camera; the back camera is below it
    assert torch.equal(sample.image[:, :24, 40:80], rig.images[0, 0])
    assert torch.equal(sample.image[:, 24:, 40:80], rig.images[0, 3])


def test_samples_are_collated_with_and_without_lidar() -> None:
    streets = Streets("train", 3, SMALL, cells=20, cell_m=1.0)
    batch = collate([streets[0], streets[2]], "map")
    assert batch.inputs.rig is not None
    assert batch.inputs.rig.images.shape == (2, 6, 3, *SMALL)
    assert batch.target.label.shape == (2, 6, 20, 20)
    without = Streets("train", 1, SMALL, lidar=False)[0]
    assert without.rig is not None
    assert without.rig.points is None


def test_a_sample_does_not_depend_on_order_or_count() -> None:
    few, many = Streets("train", 3, SMALL), Streets("train", 9, SMALL)
    backwards = [few[i] for i in (2, 1, 0)][::-1]
    for i, sample in enumerate(backwards):
        assert_same_sample(sample, many[i])
        assert sample.rig is not None
        other = many[i].rig
        assert other is not None
        assert torch.equal(sample.rig.images, other.images)
        assert torch.equal(sample.rig.camera_to_vehicle, other.camera_to_vehicle)
        assert sample.rig.points is not None
        assert other.points is not None
        assert torch.equal(sample.rig.points[0], other.points[0])


def test_splits_and_seeds_have_no_scene_in_common() -> None:
    samples = [
        Streets(split, 2, SMALL, seed=seed, lidar=False)[i]
        for split in ("train", "val", "test")
        for seed in (0, 1)
        for i in range(2)
    ]
    for tensors in ([s.image for s in samples], [s.labels["map"] for s in samples]):
        digests = {hashlib.sha256(t.numpy().tobytes()).digest() for t in tensors}
        assert len(digests) == len(samples)


def test_a_data_set_is_rebuilt_from_its_recipe() -> None:
    config = to_config(Streets(split="test", count=5, image_hw=(32, 88), lidar=False, cells=20))
    assert isinstance(config, dict)
    assert config["class_path"] == "diffsight.streets.dataset.Streets"
    again = Streets(**config["init_args"])
    assert (again.split, again.count, again.image_hw) == ("test", 5, (32, 88))
    assert (again.lidar, again.cells, again.cell_m) == (False, 20, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "unknown split 'dev' of streets: choose from train, val, test"),
        ({"count": 0}, "count 0 of streets: give at least 1"),
        (
            {"image_hw": (64, 4)},
            "image_hw (64, 4) of streets: give (height, width), each at least 8",
        ),
        ({"cells": 0}, "a map of 0 cells of 0.5 m: give positive numbers"),
        ({"cell_m": 0.0}, "a map of 50 cells of 0 m: give positive numbers"),
        ({"image_hw": (10**7, 10**7)}, "images of 10000000 x 10000000 px and 50 x 50 cells of"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments: dict, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Streets(**arguments)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_an_index_beyond_the_last_scene_is_an_error() -> None:
    with pytest.raises(IndexError, match="scenes 0 to 1, not 2"):
        Streets("train", 2, SMALL)[2]
    assert len(list(Streets("train", 2, SMALL))) == 2
