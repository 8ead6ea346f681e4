"""CameraMap: 3D points of pixels, pooling into map cells, and sizes of the input images."""

import itertools
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from tests.contracts import BackboneContract
from tests.support import images, noise
from torch import Tensor
from torch.nn import functional

from diffsight.backbones import VisionBackbone
from diffsight.backbones.bev import CameraMap
from diffsight.backbones.bev.geometry import Axis, lift, make_frustum, pool
from diffsight.errors import InputError
from diffsight.types import Inputs, Pyramid, Rig

AXES = (Axis(-8.0, 8.0, 0.5), Axis(-8.0, 8.0, 0.5), Axis(-10.0, 10.0, 20.0))
RANGE = (-8.0, 8.0, 0.5)
ARCHITECTURE = {
    "model_type": "swin",
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 4,
    "image_mean": [0.5] * 3,
    "image_std": [0.25] * 3,
}
POINT = torch.tensor([4.3, 1.2, 0.4])  # in the frame of the vehicle
CHANNELS_LAST = """
import torch
from diffsight.backbones.bev.cameras import ResidualBlock
block = ResidualBlock(4, 8, 2)
maps = torch.rand(8, 4, 64, 64).contiguous(memory_format=torch.channels_last)
for _ in range(40):
    block(maps).sum().backward()
"""


def camera_pose(yaw: float) -> torch.Tensor:
    """Return the pose of a camera 1.5 m above the ground that looks in the direction ``yaw``."""
    cosine, sine = math.cos(yaw), math.sin(yaw)
    forward, left = torch.tensor([cosine, sine, 0]), torch.tensor([-sine, cosine, 0])
    pose = torch.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2] = -left, torch.tensor([0.0, 0, -1]), forward
    pose[:3, 3] = torch.tensor([0.6 * cosine, 0.6 * sine, 1.5])
    return pose


def make_rig(changes: list[torch.Tensor] | None = None) -> Rig:
    """Return a rig of two cameras that both see ``POINT``; ``changes`` are image matrices."""
    poses = torch.stack([camera_pose(0.1), camera_pose(0.35)])[None]
    intrinsics = torch.eye(4).repeat(1, 2, 1, 1)
    intrinsics[..., 0, 0] = intrinsics[..., 1, 1] = 90.0
    intrinsics[..., 0, 2], intrinsics[..., 1, 2] = 80.0, 40.0
    change = torch.eye(4).repeat(1, 2, 1, 1) if changes is None else torch.stack(changes)[None]
    return Rig(images(2, 80, 160)[None], intrinsics, poses, change)


def pixel_of(one: Rig, view: int) -> tuple[float, float, float]:
    """Return column, row and depth of the point in a camera, after the change of its image."""
    seen = torch.linalg.inv(one.camera_to_vehicle[0, view]) @ torch.cat([POINT, torch.ones(1)])
    column, row, depth = (one.intrinsics[0, view, :3, :3] @ seen[:3]).tolist()
    moved = one.image_change[0, view] @ torch.tensor([column / depth, row / depth, 1.0, 0.0])
    shift = one.image_change[0, view, :3, 3]
    x, y, _ = (moved[:3] + shift).tolist()
    return x, y, depth


def image_change(
    scale: float, degrees: float, dx: float, dy: float, *, is_mirrored: bool
) -> torch.Tensor:
    """Return the matrix of a scaled, rotated, mirrored and shifted image."""
    turn = math.radians(degrees)
    matrix = torch.eye(4)
    matrix[:2, :2] = scale * torch.tensor(
        [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
    )
    if is_mirrored:
        matrix[0] *= -1
        dx += 160
    matrix[0, 3], matrix[1, 3] = dx, dy
    return matrix


@pytest.mark.parametrize("is_changed", [False, True])
def test_lift_returns_the_point_that_a_camera_sees(is_changed: bool) -> None:
    changes = [
        image_change(0.5, 5, 3, -2, is_mirrored=True),
        image_change(0.48, -4, -5, 4, is_mirrored=False),
    ]
    one = make_rig(changes if is_changed else None)
    for view in range(2):
        x, y, depth = pixel_of(one, view)
        frustum = torch.tensor([[[[x, y, depth]]]])  # of a single cell
        points = lift(frustum, one)[0, view, 0, 0, 0]
        torch.testing.assert_close(points, POINT, rtol=1e-4, atol=1e-4)


def test_points_follow_a_change_of_the_vehicle_frame() -> None:
    one = make_rig()
    turned = torch.eye(4)
    turned[:2, :2] = 1.1 * torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    turned[:3, 3] = torch.tensor([0.5, -0.25, 0.0])
    x, y, depth = pixel_of(one, 0)
    moved = lift(torch.tensor([[[[x, y, depth]]]]), replace(one, vehicle_change=turned[None]))
    expected = turned[:3, :3] @ POINT + turned[:3, 3]
    torch.testing.assert_close(moved[0, 0, 0, 0, 0], expected, rtol=1e-4, atol=1e-4)


def test_a_frustum_covers_the_image_and_all_depths() -> None:
    frustum = make_frustum((80, 160), (3, 5), Axis(1.0, 3.0, 0.5))
    assert frustum.shape == (4, 3, 5, 3)
    assert frustum[0, 0, 0].tolist() == [0.0, 0.0, 1.0]
    assert frustum[3, 2, 4].tolist() == [159.0, 79.0, 2.5]


def test_pooling_equals_a_loop_over_the_points() -> None:
    weights, context = noise(2, 2, 3, 4, 5, seed=1), noise(2, 2, 6, 4, 5, seed=3)
    points = 10 * noise(2, 2, 3, 4, 5, 3, seed=2)  # some lie outside
    points[0, 0, 0, 0, 0] = torch.nan
    points[0, 0, 0, 0, 1] = torch.tensor([-8.3, 0.0, 0.0])  # less than a cell below the first one
    pools = pool(weights, context, points, AXES)
    expected = torch.zeros(2, 6, 1, 32, 32)
    for b, v, d, h, w in itertools.product(range(2), range(2), range(3), range(4), range(5)):
        point = points[b, v, d, h, w]
        cells = [float(point[i] - AXES[i].low_m) / AXES[i].step_m for i in range(3)]
        if any(not math.isfinite(cell) for cell in cells):
            continue
        x, y, z = (math.trunc(cell) for cell in cells)
        if 0 <= x < 32 and 0 <= y < 32 and 0 <= z < 1:
            expected[b, :, z, x, y] += weights[b, v, d, h, w] * context[b, v, :, h, w]
    torch.testing.assert_close(pools, expected)
    assert expected[0, :, 0, 0].abs().sum() > 0


def test_gradients_of_pooling_equal_finite_differences() -> None:
    weights = noise(1, 1, 2, 2, 2, seed=1).double().requires_grad_()
    context = noise(1, 1, 3, 2, 2, seed=3).double().requires_grad_()
    points = 4 * noise(1, 1, 2, 2, 2, 3, seed=2).double()
    assert torch.autograd.gradcheck(lambda w, c: pool(w, c, points, AXES), (weights, context))


class TestCameraMap(BackboneContract):
    without_gradient = ("images.network.swin.layernorm.",)  # used only by a classifier

    def build(self) -> CameraMap:
        torch.manual_seed(0)
        encoder = VisionBackbone(architecture=ARCHITECTURE, stages=("stage2", "stage3", "stage4"))
        return CameraMap(
            encoder,
            width=16,
            context=4,
            depths=(1.0, 9.0, 1.0),
            x=RANGE,
            y=RANGE,
            stages=((8, 2), (12, 2), (16, 1)),
        )

    def size(self, backbone: CameraMap) -> tuple[int, int]:
        """Return the size of the map, which differs from that of the images."""
        return 16, 16

    def run(self, backbone: CameraMap, image: Tensor) -> Pyramid:
        views = functional.interpolate(image, (80, 160))[:, None] * torch.tensor(
            [1.0, 0.5]
        ).reshape(1, 2, 1, 1, 1)
        one = make_rig()
        rigs = [replace(one, images=view[None]) for view in views]
        return backbone.forward_inputs(Inputs(image, rig=Rig.joined(rigs)))


def test_single_images_and_other_numbers_of_levels_are_refused() -> None:
    with pytest.raises(InputError, match="reads several cameras: give a rig"):
        TestCameraMap().build().forward_inputs(Inputs(images(1, 8, 8)))
    with pytest.raises(InputError, match="reads three levels of the images, the encoder gives 4"):
        CameraMap(VisionBackbone(architecture=ARCHITECTURE))


def test_another_number_of_cameras_is_refused() -> None:
    backbone = TestCameraMap().build()
    backbone.cameras = 6
    with pytest.raises(InputError, match="the model reads 6 cameras, the rig has 2: give all"):
        backbone.forward_inputs(Inputs(images(1, 8, 8), rig=make_rig()))


def test_images_are_scaled_and_cropped_to_the_size_of_the_encoder() -> None:
    backbone = TestCameraMap().build()
    backbone.image_hw, backbone.scaled_width = (32, 64), 80
    fitted = backbone.fit_images(make_rig())
    assert fitted.images.shape == (1, 2, 3, 32, 64)
    # the lower middle of the image at half its size
    assert fitted.image_change[0, 0, :2].tolist() == [[0.5, 0, 0, -8], [0, 0.5, 0, -8]]
    assert backbone.fit_images(fitted) is fitted


def test_axes_without_cells_are_refused() -> None:
    with pytest.raises(InputError, match=r"an axis from 1 to 1 m .* has no cell"):
        Axis(1.0, 1.0, 0.5)
    with pytest.raises(InputError, match=r"an axis from 0 to 0.1 m .* has no cell"):
        Axis(0.0, 0.1, 1.0)


@pytest.mark.parametrize("span", [(1.0, 1.3, 0.1), (1.0, 60.0, 0.7), (1.0, 20.0, 0.3)])
def test_a_frustum_has_one_depth_per_cell_of_its_axis(span: tuple[float, ...]) -> None:
    axis = Axis(*span)
    assert len(make_frustum((80, 160), (3, 5), axis)) == axis.cells


def test_mixed_precision_hardly_changes_the_map_of_resized_images() -> None:
    backbone = TestCameraMap().build().eval()
    backbone.image_hw, backbone.scaled_width = (32, 64), 80
    with torch.no_grad():
        exact = backbone.features(make_rig())
        with torch.autocast("cpu", torch.bfloat16):
            mixed = backbone.features(make_rig())
    torch.testing.assert_close(mixed.float(), exact, rtol=0.1, atol=0.1)


def test_gradients_of_maps_with_channels_last_do_not_damage_memory() -> None:
    # in a process of its own, because damaged memory ends the process
    command = [sys.executable, "-c", CHANNELS_LAST]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
