"""Crops of camera images, and the matrix of their pixels."""

import pytest
import torch
from tests.support import images

from diffsight.ops.camera_crop import CameraCrop


def make_spot(row: int, column: int) -> torch.Tensor:
    """Return a black image with a soft white spot."""
    y, x = torch.arange(90.0)[:, None], torch.arange(160.0)[None]
    one = torch.exp(-((y - row) ** 2 + (x - column) ** 2) / 50)
    return one.expand(1, 3, 90, 160)


@pytest.mark.parametrize("is_mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0.0, 20.0, -5.4])
def test_the_matrix_maps_a_spot_to_its_pixel_in_the_crop(is_mirrored: bool, degrees: float) -> None:
    crop = CameraCrop(0.5, 8, 6, (36, 64), is_mirrored, degrees)
    changed = crop.images(make_spot(50, 90))[0, 0]
    row, column = divmod(int(changed.argmax()), 64)
    moved = crop.matrix() @ torch.tensor([90.0, 50.0, 1.0, 1.0])
    # the matrix is that of the authors, which ignores half pixels
    assert abs(float(moved[0]) - column) < 1.5
    assert abs(float(moved[1]) - row) < 1.5


def test_without_rotation_a_crop_is_a_slice() -> None:
    picture = images(2, 40, 60)
    crop = CameraCrop(1.0, 10, 5, (30, 50))
    assert torch.equal(crop.images(picture), picture[..., 10:40, 5:55])
    mirrored = CameraCrop(1.0, 10, 5, (30, 50), is_mirrored=True)
    assert torch.equal(mirrored.images(picture), picture[..., 10:40, 5:55].flip(-1))


def test_pixels_outside_the_image_are_black() -> None:
    crop = CameraCrop(1.0, -2, -3, (10, 12)).images(torch.ones(1, 3, 6, 6))[0, 0]
    assert crop[:2].sum() == crop[8:].sum() == crop[:, :3].sum() == crop[:, 9:].sum() == 0
    assert torch.equal(crop[2:8, 3:9], torch.ones(6, 6))


def test_the_lower_middle_is_the_crop_of_the_authors() -> None:
    crop = CameraCrop.lower_middle((900, 1600), (256, 704), 0.48)
    assert (crop.top_px, crop.left_px) == (176, 32)
    assert crop.matrix()[:2].tolist() == [
        pytest.approx([0.48, 0.0, 0.0, -32.0]),
        pytest.approx([0.0, 0.48, 0.0, -176.0]),
    ]
