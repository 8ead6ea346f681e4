"""LidarMap and CameraLidarMap are compared with loops and with dense convolutions."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from tests.contracts import BackboneContract
from tests.support import images, noise
from torch import Tensor
from torch.nn import functional

from diffsight.backbones import VisionBackbone
from diffsight.backbones.bev import CameraLidarMap, LidarMap
from diffsight.backbones.bev.geometry import Axis
from diffsight.backbones.bev.lidar import PADDINGS, SparseEncoder
from diffsight.backbones.bev.voxels import voxelise
from diffsight.diffusion import MaskEmbedding
from diffsight.errors import InputError
from diffsight.heads.map_decoder import MapDecoder
from diffsight.methods import DDP
from diffsight.model import DenseModel
from diffsight.ops.sparse import Sites, to_dense
from diffsight.tasks import BEV
from diffsight.types import Draws, Inputs, Pyramid, Rig, Target

ARCHITECTURE = {
    "model_type": "swin",
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 4,
    "image_mean": [0.5] * 3,
    "image_std": [0.25] * 3,
}
AXES = (Axis(-2.0, 2.0, 0.5), Axis(-1.0, 2.0, 0.5), Axis(-1.0, 1.0, 0.5))
RANGE = (-8.0, 8.0)


def make_points(number: int, seed: int = 0, reach_m: float = 7.9) -> Tensor:
    """Return random points around the vehicle, with intensity and age."""
    points = images(1, 1, number, seed)[0, :, 0].T  # in [0, 1]
    positions = (2 * points - 1) * torch.tensor([reach_m, reach_m, 1.0])
    return torch.cat([positions, points[:, :2]], dim=1)


def voxelise_in_a_loop(
    points: Tensor, max_points: int, max_voxels: int
) -> tuple[list[tuple[int, ...]], list[Tensor], int]:
    """Return cells, their means and the number of points outside, from a loop over points."""
    cells: dict[tuple[int, ...], list[Tensor]] = {}
    outside = 0
    for point in points:
        cell = tuple(math.floor((float(point[i]) - AXES[i].low_m) / 0.5) for i in range(3))
        if any(not 0 <= cell[i] < AXES[i].cells for i in range(3)):
            outside += 1
        elif cell in cells or len(cells) < max_voxels:
            kept = cells.setdefault(cell, [])
            if len(kept) < max_points:
                kept.append(point)
    means = [torch.stack(kept).mean(dim=0) for kept in cells.values()]
    return list(cells), means, outside


@pytest.mark.parametrize(("max_points", "max_voxels"), [(10, 1000), (2, 1000), (3, 20), (1, 1)])
def test_voxels_equal_those_of_a_loop_over_the_points(max_points: int, max_voxels: int) -> None:
    rows = [make_points(400, seed=1, reach_m=2.5), make_points(90, seed=2, reach_m=1.5)]
    voxels = voxelise(rows, AXES, max_points=max_points, max_voxels=max_voxels)
    for row, points in enumerate(rows):
        cells, means, outside = voxelise_in_a_loop(points, max_points, max_voxels)
        in_row = voxels.coordinates[:, 0] == row
        assert [tuple(one) for one in voxels.coordinates[in_row, 1:].tolist()] == cells
        torch.testing.assert_close(voxels.features[in_row], torch.stack(means))
        assert int(voxels.outside[row]) == outside
    assert int(voxels.outside[0]) > 50


def test_a_cell_includes_its_lower_edge_but_not_its_upper_edge() -> None:
    points = torch.zeros(4, 5)
    points[0, :3] = torch.tensor([-2.0, -1.0, -1.0])
    points[1, 0], points[2, 1], points[3, 2] = 2.0, 2.0, 1.0
    voxels = voxelise([points], AXES, max_points=10, max_voxels=10)
    assert voxels.coordinates.tolist() == [[0, 0, 0, 0]]
    assert voxels.outside.tolist() == [3]


def test_points_that_are_not_finite_are_refused() -> None:
    points = make_points(20)
    points[3, 1], points[5, 4], points[5, 0] = torch.nan, torch.inf, torch.nan
    with pytest.raises(
        InputError, match=r"^the LiDAR of row 1 of the batch: 2 of 20 points are not finite: leave"
    ):
        voxelise([make_points(20), points], AXES, max_points=10, max_voxels=10)


def test_training_and_evaluation_have_different_limits_of_voxels() -> None:
    lidar = LidarMap(max_voxels=(30, 40))
    assert len(lidar.voxels([make_points(100)]).features) == 30
    assert len(lidar.eval().voxels([make_points(100)]).features) == 40


def test_the_default_geometry_is_that_of_the_authors() -> None:
    lidar = LidarMap().eval()
    assert lidar.shape == (1024, 1024, 41)
    assert (lidar.channels, lidar.map_shape) == (256, (128, 128))
    assert sum(p.numel() for p in lidar.parameters()) == 2_694_352
    point = torch.tensor([[40.0, -30.0, 0.5, 1.0, 0.0]])
    with torch.no_grad():
        maps = lidar([point, make_points(50)])
    assert maps.shape == (2, 256, 128, 128)
    occupied = maps[0].abs().sum(dim=0).nonzero()
    expected = torch.tensor([(40 + 51.2) / 0.8, (-30 + 51.2) / 0.8])  # x is the first axis
    assert len(occupied) > 0
    assert float((occupied + 0.5 - expected).abs().max()) <= 2


def dense_encoder(encoder: SparseEncoder, x: Tensor, mask: Tensor) -> Tensor:
    """Compute the output of the encoder with dense convolutions; empty cells stay zero."""

    def layer(part: Any, x: Tensor, mask: Tensor, **options: Any) -> Tensor:
        x = functional.conv3d(x, part.conv.weight.permute(4, 3, 0, 1, 2), **options)
        norm = part.norm
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        x = (x - norm.running_mean[:, None, None, None]) * scale[:, None, None, None]
        return (x + norm.bias[:, None, None, None]) * mask

    def reached(mask: Tensor, kernel: tuple[int, ...], **options: Any) -> Tensor:
        # in 64 bit: oneDNN's convolution of one channel reads outside its memory (PyTorch 2.13)
        ones = torch.ones(1, 1, *kernel).double()
        return (functional.conv3d(mask.double(), ones, **options) > 0).float()

    x = layer(encoder.first, x, mask, padding=1).relu()
    blocks: list[Any] = list(encoder.blocks)
    for level in range(4):
        if level:
            options = {"stride": 2, "padding": PADDINGS[level - 1]}
            mask = reached(mask, (3, 3, 3), **options)
            x = layer(encoder.smaller[level - 1], x, mask, **options).relu()
        for block in blocks[2 * level : 2 * level + 2]:
            inner = layer(block.first, x, mask, padding=1).relu()
            x = (layer(block.second, inner, mask, padding=1) + x).relu()
    mask = reached(mask, (1, 1, 3), stride=(1, 1, 2))
    return layer(encoder.last, x, mask, stride=(1, 1, 2)).relu()


def randomise_norms(module: torch.nn.Module) -> Any:
    """Set random batch-norm statistics; return the module in evaluation mode."""
    for seed, norm in enumerate(m for m in module.modules() if isinstance(m, torch.nn.BatchNorm1d)):
        norm.running_mean = 0.1 * noise(norm.num_features, seed=seed)
        norm.running_var = 1 + 0.1 * noise(norm.num_features, seed=seed).abs()
        norm.bias.data = 0.1 * noise(norm.num_features, seed=seed + 100)
    return module.eval()


def test_the_encoder_equals_one_of_dense_convolutions() -> None:
    torch.manual_seed(0)
    encoder = randomise_norms(SparseEncoder((4, 6, 8, 10), 3))
    shape = (17, 16, 41)
    cells = torch.randperm(2 * math.prod(shape), generator=torch.Generator().manual_seed(0))[:300]
    coordinates = torch.stack(torch.unravel_index(cells, (2, *shape)), dim=1)
    sites, features = Sites(coordinates, shape, 2), noise(300, 5)
    with torch.no_grad():
        maps = encoder(features, sites)
        mask = to_dense(torch.ones(300, 1), sites)
        expected = dense_encoder(encoder, to_dense(features, sites), mask)
    assert expected.shape == (2, 3, 3, 2, 2)
    assert maps.shape == (2, 6, 3, 2)
    for channel in range(3):
        for height in range(2):
            ours = maps[:, 2 * channel + height]
            torch.testing.assert_close(ours, expected[:, channel, :, :, height])
    assert float(maps.abs().max()) > 0


def test_the_map_of_a_row_without_points_is_zero() -> None:
    lidar = LidarMap(widths=(4, 4, 4, 4), width=4).eval()
    nothing, far = torch.empty(0, 5), torch.full((3, 5), 99.0)
    with torch.no_grad():
        one, empty = lidar([make_points(40), nothing])
        assert float(empty.abs().max()) == 0
        assert float(one.abs().max()) > 0
        assert lidar([nothing, nothing]).shape == (2, 8, 128, 128)
        assert lidar([far]).equal(lidar([nothing]))


def build(step_m: float = 0.1) -> CameraLidarMap:
    """Return a small model; voxels of 0.1 m fit the map of the cameras."""
    torch.manual_seed(0)
    encoder = VisionBackbone(architecture=ARCHITECTURE, stages=("stage2", "stage3", "stage4"))
    lidar = LidarMap(x=(*RANGE, step_m), y=(*RANGE, step_m), widths=(4, 6, 8, 8), width=4)
    return CameraLidarMap(
        encoder,
        lidar,
        width=8,
        context=4,
        depths=(1.0, 9.0, 1.0),
        x=(*RANGE, 0.4),
        y=(*RANGE, 0.4),
        stages=((6, 1), (8, 2)),
    )


def make_rig(count: int = 1, seed: int = 0) -> Rig:
    pose = torch.eye(4).repeat(count, 2, 1, 1)
    pose[..., :3, :3] = torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    intrinsics = torch.eye(4).repeat(count, 2, 1, 1)
    intrinsics[..., 0, 0] = intrinsics[..., 1, 1] = 60.0
    intrinsics[..., 0, 2], intrinsics[..., 1, 2] = 64.0, 32.0
    pictures = images(2 * count, 64, 128, seed).unflatten(0, (count, 2))
    points = tuple(make_points(300 + 50 * row, seed=seed + row) for row in range(count))
    change = torch.eye(4).repeat(count, 2, 1, 1)
    return Rig(pictures, intrinsics, pose, change, points=points)


def make_inputs(one: Rig) -> Inputs:
    return Inputs(torch.zeros(len(one), 3, 1, 1), rig=one)


def build_with_statistics() -> CameraLidarMap:
    """Return a model whose norms fit its features, so that both sensors change the output."""
    backbone = build()
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        backbone.features(make_rig(2, seed=5))
    return backbone.eval()


def assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compare the largest difference with the largest expected value."""
    worst = (actual - expected).abs().max() / expected.abs().max()
    assert float(worst) < tolerance


def test_the_fused_map_depends_on_cameras_and_lidar() -> None:
    backbone = build_with_statistics()
    both = make_rig(2)
    with torch.no_grad():
        (features,) = backbone.forward_inputs(make_inputs(both)).features
        alone = [backbone.features(one) for one in both.each()]
    assert features.shape == (2, 16, 20, 20)
    assert (backbone.channels, backbone.strides) == ((16,), (1,))
    assert_near(features, torch.cat(alone), 1e-5)
    assert both.points is not None
    others = replace(both, points=tuple(one.roll(1, dims=1) for one in both.points))
    darker = replace(both, images=both.images / 2)
    with torch.no_grad():
        for changed in (others, darker):
            other = backbone.features(changed)
            assert float((other - features).abs().max() / features.abs().max()) > 0.05


def test_a_change_of_the_vehicle_moves_the_points_of_the_lidar() -> None:
    backbone, one = build_with_statistics(), make_rig()
    turned = torch.eye(4)
    turned[:2, :2] = 0.8 * torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    turned[0, 3] = 0.5
    assert one.points is not None
    (points,) = one.points
    moved = torch.cat([points[:, :3] @ turned[:3, :3].T + turned[:3, 3], points[:, 3:]], dim=1)
    with torch.no_grad():
        changed = backbone.features(replace(one, vehicle_change=turned[None]))
        pose = turned @ one.camera_to_vehicle
        expected = backbone.features(replace(one, camera_to_vehicle=pose, points=(moved,)))
    assert_near(changed, expected, 1e-3)


def test_mixed_precision_does_not_move_the_points() -> None:
    backbone, one, calls = build_with_statistics(), make_rig(), []
    turn = torch.eye(4)
    turn[:2, :2] = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    one = replace(one, vehicle_change=turn[None])
    backbone.lidar.register_forward_hook(lambda _, points, maps: calls.append((points, maps)))
    with torch.no_grad():
        backbone.features(one)
        with torch.autocast("cpu", torch.bfloat16):
            backbone.features(one)
    (points, exact), (others, mixed) = calls
    cells = backbone.lift.points(one, (8, 16))
    with torch.autocast("cpu", torch.bfloat16):
        assert backbone.lift.points(one, (8, 16)).equal(cells)
    assert points[0][0].equal(others[0][0])
    assert_near(mixed, exact, 0.05)


class TestCameraLidarMap(BackboneContract):
    without_gradient = ("images.network.swin.layernorm.",)  # used only by a classifier

    def build(self) -> CameraLidarMap:
        return build()

    def size(self, backbone: CameraLidarMap) -> tuple[int, int]:
        """Return the size of the map, which differs from that of the images."""
        return 20, 20

    def run(self, backbone: CameraLidarMap, image: Tensor) -> Pyramid:
        rigs = []
        for one in functional.interpolate(image, (64, 128)):
            points = make_points(300)
            points[:, 3] = one.mean()
            views = torch.stack([one, one / 2])[None]
            rigs.append(replace(make_rig(), images=views, points=(points,)))
        return backbone.forward_inputs(Inputs(image, rig=Rig.joined(rigs)))


def test_rigs_without_lidar_and_maps_of_different_sizes_are_refused() -> None:
    backbone = build()
    for one in (replace(make_rig(), points=None), None):
        with pytest.raises(InputError, match=r"^the model reads .*: give a rig[^\n]*$"):
            backbone.forward_inputs(Inputs(images(1, 8, 8), rig=one))
    with pytest.raises(InputError, match=r"20 x 20 cells of the cameras and 10 x 10 of the LiDAR"):
        build(step_m=0.2)


def test_a_pass_runs_on_the_meta_device() -> None:
    backbone = build().to("meta")
    features = backbone.features(backbone.example_rig((64, 128)))
    assert features.is_meta
    assert features.shape == (1, 16, 20, 20)


def test_ddp_projects_a_wider_map_to_the_width_of_its_decoder() -> None:
    task = BEV(names=("road", "walkway"), cells=10, cell_m=1.5)
    parts = {
        "backbone": build(),
        "neck": None,
        "decoder": MapDecoder(width=8, layers=1, hidden=8, time_width=None),
    }
    method = partial(DDP, **parts, encoding=partial(MaskEmbedding, width=8))
    model = DenseModel(task=task, method=method).train()
    assert model.method.fuse.weight.shape == (8, 16 + 8, 1, 1)
    label = (images(2, 10, 10)[:, :2] > 0.5).float()
    target = Target(label, torch.ones(2, 10, 10, dtype=torch.bool))
    loss = model.losses(make_inputs(make_rig(2)), target, draws=Draws((0, 1)))["loss"]
    loss.backward()
    assert float(loss.detach()) > 0
    with torch.no_grad():
        output = model.eval()(make_inputs(make_rig(2)), draws=Draws((0, 1)))
    assert output.maps.shape == (2, 2, 10, 10)
    with pytest.raises(InputError, match="8 channels, but gets maps with 16 channels"):
        DenseModel(task=task, method=partial(DDP, **parts, encoding=None))
