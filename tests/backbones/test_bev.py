"""From pixels to cells of a map: by hand, by a loop, and by finite differences."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from tests.support import images, noise

from diffsight.backbones import VisionBackbone
from diffsight.backbones.bev import CameraMap
from diffsight.backbones.bev.geometry import Axis, frustum, lifted, pooled
from diffsight.errors import InputError
from diffsight.types import Inputs, Rig

AXES = (Axis(-8.0, 8.0, 0.5), Axis(-8.0, 8.0, 0.5), Axis(-10.0, 10.0, 20.0))
POINT = torch.tensor([4.3, 1.2, 0.4])  # in the frame of the vehicle


def camera(yaw: float) -> torch.Tensor:
    """Pose of a camera that looks in this direction, 1.5 m above the ground and 0.6 m ahead."""
    cosine, sine = math.cos(yaw), math.sin(yaw)
    forward, left = torch.tensor([cosine, sine, 0]), torch.tensor([-sine, cosine, 0])
    pose = torch.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2] = -left, torch.tensor([0.0, 0, -1]), forward
    pose[:3, 3] = torch.tensor([0.6 * cosine, 0.6 * sine, 1.5])
    return pose


def rig(changes: list[torch.Tensor] | None = None) -> Rig:
    """Two cameras that both see the point, with the changes of their images."""
    poses = torch.stack([camera(0.1), camera(0.35)])[None]
    intrinsics = torch.eye(4).repeat(1, 2, 1, 1)
    intrinsics[..., 0, 0] = intrinsics[..., 1, 1] = 90.0
    intrinsics[..., 0, 2], intrinsics[..., 1, 2] = 80.0, 40.0
    change = torch.eye(4).repeat(1, 2, 1, 1) if changes is None else torch.stack(changes)[None]
    return Rig(images(2, 80, 160)[None], intrinsics, poses, change)


def pixel_of(one: Rig, view: int) -> tuple[float, float, float]:
    """Column, row and depth at which a camera sees the point, after the change of its image."""
    seen = torch.linalg.inv(one.camera_to_vehicle[0, view]) @ torch.cat([POINT, torch.ones(1)])
    column, row, depth = (one.intrinsics[0, view, :3, :3] @ seen[:3]).tolist()
    moved = one.image_change[0, view] @ torch.tensor([column / depth, row / depth, 1.0, 0.0])
    shift = one.image_change[0, view, :3, 3]
    x, y, _ = (moved[:3] + shift).tolist()
    return x, y, depth


def change(scale: float, degrees: float, dx: float, dy: float, *, flips: bool) -> torch.Tensor:
    turn = math.radians(degrees)
    matrix = torch.eye(4)
    matrix[:2, :2] = scale * torch.tensor(
        [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
    )
    if flips:
        matrix[0] *= -1
        dx += 160
    matrix[0, 3], matrix[1, 3] = dx, dy
    return matrix


@pytest.mark.parametrize("changed", [False, True])
def test_every_camera_puts_a_point_into_its_cell(changed: bool) -> None:
    changes = [change(0.5, 5, 3, -2, flips=True), change(0.48, -4, -5, 4, flips=False)]
    one = rig(changes if changed else None)
    for view in range(2):
        x, y, depth = pixel_of(one, view)
        cell = torch.tensor([[[[x, y, depth]]]])  # a frustum of one cell
        points = lifted(cell, one)[0, view, 0, 0, 0]
        torch.testing.assert_close(points, POINT, rtol=1e-4, atol=1e-4)


def test_a_change_of_the_vehicle_moves_the_points() -> None:
    one = rig()
    turned = torch.eye(4)
    turned[:2, :2] = 1.1 * torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    turned[:3, 3] = torch.tensor([0.5, -0.25, 0.0])
    x, y, depth = pixel_of(one, 0)
    moved = lifted(torch.tensor([[[[x, y, depth]]]]), replace(one, vehicle_change=turned[None]))
    expected = turned[:3, :3] @ POINT + turned[:3, 3]
    torch.testing.assert_close(moved[0, 0, 0, 0, 0], expected, rtol=1e-4, atol=1e-4)


def test_a_frustum_runs_over_pixels_and_depths() -> None:
    cells = frustum((80, 160), (3, 5), Axis(1.0, 3.0, 0.5))
    assert cells.shape == (4, 3, 5, 3)
    assert cells[0, 0, 0].tolist() == [0.0, 0.0, 1.0]
    assert cells[3, 2, 4].tolist() == [159.0, 79.0, 2.5]


def test_pooling_is_a_loop_over_the_points() -> None:
    values = noise(2, 2, 3, 4, 5, 6, seed=1)
    points = 10 * noise(2, 2, 3, 4, 5, 3, seed=2)  # some lie outside
    points[0, 0, 0, 0, 0] = torch.nan
    points[0, 0, 0, 0, 1] = torch.tensor([-8.3, 0.0, 0.0])  # up to a cell below the first
    found = pooled(values, points, AXES)
    expected = torch.zeros(2, 6, 1, 32, 32)
    for b, v, d, h, w in itertools.product(range(2), range(2), range(3), range(4), range(5)):
        place = points[b, v, d, h, w]
        steps = [float(place[i] - AXES[i].low_m) / AXES[i].step_m for i in range(3)]
        if any(not math.isfinite(s) for s in steps):
            continue
        x, y, z = (math.trunc(s) for s in steps)
        if 0 <= x < 32 and 0 <= y < 32 and 0 <= z < 1:
            expected[b, :, z, x, y] += values[b, v, d, h, w]
    torch.testing.assert_close(found, expected)
    assert expected[0, :, 0, 0].abs().sum() > 0


def test_gradients_of_pooling_are_finite_differences() -> None:
    values = noise(1, 1, 2, 2, 2, 3, seed=1).double().requires_grad_()
    points = 4 * noise(1, 1, 2, 2, 2, 3, seed=2).double()
    assert torch.autograd.gradcheck(lambda v: pooled(v, points, AXES), (values,))


def test_several_cameras_become_one_map() -> None:
    architecture = {
        "model_type": "swin",
        "embed_dim": 8,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 2, 2],
        "window_size": 4,
        "image_mean": [0.5] * 3,
        "image_std": [0.25] * 3,
    }
    torch.manual_seed(0)
    encoder = VisionBackbone(architecture=architecture, stages=("stage2", "stage3", "stage4"))
    span = (-8.0, 8.0, 0.5)
    backbone = CameraMap(
        encoder,
        width=16,
        context=4,
        depths=(1.0, 9.0, 1.0),
        x=span,
        y=span,
        stages=((8, 2), (12, 2), (16, 1)),
    ).eval()
    one = rig()
    with torch.no_grad():
        (features,) = backbone.of_inputs(Inputs(images(1, 8, 8), rig=one)).features
    assert features.shape == (1, 16, 16, 16)
    assert (backbone.channels, backbone.strides) == ((16,), (1,))
    with pytest.raises(InputError, match="reads several cameras: give a rig"):
        backbone.of_inputs(Inputs(images(1, 8, 8)))
    with pytest.raises(InputError, match="reads three levels of the images, the encoder gives 4"):
        CameraMap(VisionBackbone(architecture=architecture))


def test_axes_without_cells() -> None:
    with pytest.raises(InputError, match=r"an axis from 1 to 1 m .* has no cell"):
        Axis(1.0, 1.0, 0.5)
