"""Random changes of the cameras and of the frame of the vehicle."""

from dataclasses import replace

import pytest
import torch
from tests.test_rig import rig, sample
from torch import Tensor

from diffsight.datasets import RandomCameras, RandomVehicle
from diffsight.errors import InputError


class MatrixMap:
    """A source that draws the first row of the matrix as the map, so that tests can read it."""

    def draw(self, vehicle_change: Tensor) -> Tensor:
        return vehicle_change[:1, :, None].expand(1, 4, 4).clone()


def test_every_camera_gets_its_own_change_and_matrix() -> None:
    transform = RandomCameras(hw=(4, 6), scale=(0.8, 1.0), degrees=3.0)
    one = sample(rig())
    changed = transform(one, torch.Generator().manual_seed(0))
    again = transform(one, torch.Generator().manual_seed(0))
    assert changed.rig.images.shape == (1, 2, 3, 4, 6)
    assert changed.rig.images.dtype == torch.uint8
    assert torch.equal(changed.rig.images, again.rig.images)
    first, second = changed.rig.image_change[0]
    assert not torch.equal(first, second)
    assert torch.equal(changed.rig.camera_to_vehicle, one.rig.camera_to_vehicle)


def test_without_randomness_images_stay_unchanged() -> None:
    transform = RandomCameras(hw=(16, 20), scale=(1.0, 1.0), degrees=0.0, mirror_probability=0.0)
    one = sample(rig())
    changed = transform(one, torch.Generator().manual_seed(0))
    assert torch.equal(changed.rig.images, one.rig.images)
    torch.testing.assert_close(changed.rig.image_change, one.rig.image_change)


def test_the_map_is_drawn_in_the_changed_vehicle_frame() -> None:
    one = replace(sample(rig()), map_source=MatrixMap())
    changed = RandomVehicle()(one, torch.Generator().manual_seed(3))
    (matrix,) = changed.rig.vehicle_change
    assert torch.equal(changed.labels["map"], MatrixMap().draw(matrix))
    scale = float(matrix[2, 2])
    assert 0.9 <= scale <= 1.1
    turn = matrix[:2, :2] / scale
    torch.testing.assert_close(turn @ turn.T, torch.eye(2), rtol=1e-5, atol=1e-5)
    twice = RandomVehicle()(changed, torch.Generator().manual_seed(4))
    assert torch.equal(twice.labels["map"], MatrixMap().draw(twice.rig.vehicle_change[0]))
    only = RandomVehicle()(one, torch.Generator().manual_seed(4))
    torch.testing.assert_close(
        twice.rig.vehicle_change, only.rig.vehicle_change @ changed.rig.vehicle_change
    )


def test_half_of_the_frames_are_mirrored() -> None:
    one = replace(sample(rig()), map_source=MatrixMap())
    generator = torch.Generator().manual_seed(0)
    changes = [RandomVehicle()(one, generator).rig.vehicle_change[0, :2, :2] for _ in range(200)]
    mirrored = sum(float(torch.linalg.det(change)) < 0 for change in changes)
    assert 70 < mirrored < 130


def test_samples_without_cameras_or_map_source_are_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(InputError, match="sample a is one image, not a rig: remove RandomCameras"):
        RandomCameras()(sample(None), generator)
    with pytest.raises(
        InputError, match="remove RandomVehicle from the recipe, or set preload to 0"
    ):
        RandomVehicle()(sample(rig()), generator)
