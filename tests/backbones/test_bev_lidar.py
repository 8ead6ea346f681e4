"""Points of a LiDAR on the map: by a loop, by dense convolutions, and with cameras."""

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
from diffsight.backbones.bev.voxels import voxels_of
from diffsight.diffusion import MaskEmbedding
from diffsight.errors import InputError
from diffsight.heads.map_decoder import MapDecoder
from diffsight.methods import DDP
from diffsight.model import DenseModel
from diffsight.ops.sparse import Sites, dense
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
SPAN = (-8.0, 8.0)


def cloud(number: int, seed: int = 0, reach_m: float = 7.9) -> Tensor:
    """Points around the vehicle, intensity and age."""
    points = images(1, 1, number, seed)[0, :, 0].T  # in [0, 1]
    places = (2 * points - 1) * torch.tensor([reach_m, reach_m, 1.0])
    return torch.cat([places, points[:, :2]], dim=1)


def by_hand(
    points: Tensor, max_points: int, max_voxels: int
) -> tuple[list[tuple[int, ...]], list[Tensor], int]:
    """Cells, their means and the points outside, one point after another."""
    cells: dict[tuple[int, ...], list[Tensor]] = {}
    outside = 0
    for point in points:
        place = tuple(math.floor((float(point[i]) - AXES[i].low_m) / 0.5) for i in range(3))
        if any(not 0 <= place[i] < AXES[i].cells for i in range(3)):
            outside += 1
        elif place in cells or len(cells) < max_voxels:
            kept = cells.setdefault(place, [])
            if len(kept) < max_points:
                kept.append(point)
    means = [torch.stack(kept).mean(dim=0) for kept in cells.values()]
    return list(cells), means, outside


@pytest.mark.parametrize(("max_points", "max_voxels"), [(10, 1000), (2, 1000), (3, 20), (1, 1)])
def test_voxels_are_a_loop_over_the_points(max_points: int, max_voxels: int) -> None:
    rows = [cloud(400, seed=1, reach_m=2.5), cloud(90, seed=2, reach_m=1.5)]
    found = voxels_of(rows, AXES, max_points=max_points, max_voxels=max_voxels)
    for row, points in enumerate(rows):
        cells, means, outside = by_hand(points, max_points, max_voxels)
        mine = found.coordinates[:, 0] == row
        assert [tuple(one) for one in found.coordinates[mine, 1:].tolist()] == cells
        torch.testing.assert_close(found.features[mine], torch.stack(means))
        assert int(found.outside[row]) == outside
    assert int(found.outside[0]) > 50


def test_a_cell_has_its_first_edge_and_not_its_last() -> None:
    points = torch.zeros(4, 5)
    points[0, :3] = torch.tensor([-2.0, -1.0, -1.0])
    points[1, 0], points[2, 1], points[3, 2] = 2.0, 2.0, 1.0
    found = voxels_of([points], AXES, max_points=10, max_voxels=10)
    assert found.coordinates.tolist() == [[0, 0, 0, 0]]
    assert found.outside.tolist() == [3]


def test_points_that_are_not_finite() -> None:
    points = cloud(20)
    points[3, 1], points[5, 4], points[5, 0] = torch.nan, torch.inf, torch.nan
    with pytest.raises(
        InputError, match=r"^the LiDAR of row 1 of the batch: 2 of 20 points are not finite: leave"
    ):
        voxels_of([cloud(20), points], AXES, max_points=10, max_voxels=10)


def test_a_training_keeps_fewer_voxels() -> None:
    lidar = LidarMap(max_voxels=(30, 40))
    assert len(lidar.voxels([cloud(100)]).features) == 30
    assert len(lidar.eval().voxels([cloud(100)]).features) == 40


def test_the_authors_geometry() -> None:
    lidar = LidarMap().eval()
    assert lidar.shape == (1024, 1024, 41)
    assert (lidar.channels, lidar.map_shape) == (256, (128, 128))
    assert sum(p.numel() for p in lidar.parameters()) == 2_694_352
    point = torch.tensor([[40.0, -30.0, 0.5, 1.0, 0.0]])
    with torch.no_grad():
        maps = lidar([point, cloud(50)])
    assert maps.shape == (2, 256, 128, 128)
    there = maps[0].abs().sum(dim=0).nonzero()
    expected = torch.tensor([(40 + 51.2) / 0.8, (-30 + 51.2) / 0.8])  # x is the first axis
    assert len(there) > 0
    assert float((there + 0.5 - expected).abs().max()) <= 2


def dense_encoder(encoder: SparseEncoder, x: Tensor, mask: Tensor) -> Tensor:
    """The encoder with dense convolutions; cells that hold nothing stay zero."""

    def layer(part: Any, x: Tensor, mask: Tensor, **how: Any) -> Tensor:
        x = functional.conv3d(x, part.conv.weight.permute(4, 3, 0, 1, 2), **how)
        norm = part.norm
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        x = (x - norm.running_mean[:, None, None, None]) * scale[:, None, None, None]
        return (x + norm.bias[:, None, None, None]) * mask

    def reached(mask: Tensor, kernel: tuple[int, ...], **how: Any) -> Tensor:
        # in 64 bit: oneDNN's convolution of one channel reads other memory (PyTorch 2.13)
        ones = torch.ones(1, 1, *kernel).double()
        return (functional.conv3d(mask.double(), ones, **how) > 0).float()

    x = layer(encoder.first, x, mask, padding=1).relu()
    blocks: list[Any] = list(encoder.blocks)
    for level in range(4):
        if level:
            how = {"stride": 2, "padding": PADDINGS[level - 1]}
            mask = reached(mask, (3, 3, 3), **how)
            x = layer(encoder.smaller[level - 1], x, mask, **how).relu()
        for block in blocks[2 * level : 2 * level + 2]:
            inner = layer(block.first, x, mask, padding=1).relu()
            x = (layer(block.second, inner, mask, padding=1) + x).relu()
    mask = reached(mask, (1, 1, 3), stride=(1, 1, 2))
    return layer(encoder.last, x, mask, stride=(1, 1, 2)).relu()


def lively(module: torch.nn.Module) -> Any:
    """Norms with statistics that are not those of a beginning."""
    for seed, norm in enumerate(m for m in module.modules() if isinstance(m, torch.nn.BatchNorm1d)):
        norm.running_mean = 0.1 * noise(norm.num_features, seed=seed)
        norm.running_var = 1 + 0.1 * noise(norm.num_features, seed=seed).abs()
        norm.bias.data = 0.1 * noise(norm.num_features, seed=seed + 100)
    return module.eval()


def test_the_encoder_is_one_of_dense_convolutions() -> None:
    torch.manual_seed(0)
    encoder = lively(SparseEncoder((4, 6, 8, 10), 3))
    shape = (17, 16, 41)
    cells = torch.randperm(2 * math.prod(shape), generator=torch.Generator().manual_seed(0))[:300]
    coordinates = torch.stack(torch.unravel_index(cells, (2, *shape)), dim=1)
    sites, features = Sites(coordinates, shape, 2), noise(300, 5)
    with torch.no_grad():
        found = encoder(features, sites)
        mask = dense(torch.ones(300, 1), sites)
        expected = dense_encoder(encoder, dense(features, sites), mask)
    assert expected.shape == (2, 3, 3, 2, 2)
    assert found.shape == (2, 6, 3, 2)
    for channel in range(3):
        for height in range(2):
            ours = found[:, 2 * channel + height]
            torch.testing.assert_close(ours, expected[:, channel, :, :, height])
    assert float(found.abs().max()) > 0


def test_rows_without_points_are_zero() -> None:
    lidar = LidarMap(widths=(4, 4, 4, 4), width=4).eval()
    nothing, far = torch.empty(0, 5), torch.full((3, 5), 99.0)
    with torch.no_grad():
        one, empty = lidar([cloud(40), nothing])
        assert float(empty.abs().max()) == 0
        assert float(one.abs().max()) > 0
        assert lidar([nothing, nothing]).shape == (2, 8, 128, 128)
        assert lidar([far]).equal(lidar([nothing]))


def build(step_m: float = 0.1) -> CameraLidarMap:
    """A small model; voxels of 0.1 m are those that fit the cameras' map."""
    torch.manual_seed(0)
    encoder = VisionBackbone(architecture=ARCHITECTURE, stages=("stage2", "stage3", "stage4"))
    lidar = LidarMap(x=(*SPAN, step_m), y=(*SPAN, step_m), widths=(4, 6, 8, 8), width=4)
    return CameraLidarMap(
        encoder,
        lidar,
        width=8,
        context=4,
        depths=(1.0, 9.0, 1.0),
        x=(*SPAN, 0.4),
        y=(*SPAN, 0.4),
        stages=((6, 1), (8, 2)),
    )


def rig(count: int = 1, seed: int = 0) -> Rig:
    pose = torch.eye(4).repeat(count, 2, 1, 1)
    pose[..., :3, :3] = torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    intrinsics = torch.eye(4).repeat(count, 2, 1, 1)
    intrinsics[..., 0, 0] = intrinsics[..., 1, 1] = 60.0
    intrinsics[..., 0, 2], intrinsics[..., 1, 2] = 64.0, 32.0
    pictures = images(2 * count, 64, 128, seed).unflatten(0, (count, 2))
    points = tuple(cloud(300 + 50 * row, seed=seed + row) for row in range(count))
    change = torch.eye(4).repeat(count, 2, 1, 1)
    return Rig(pictures, intrinsics, pose, change, points=points)


def inputs(one: Rig) -> Inputs:
    return Inputs(torch.zeros(len(one), 3, 1, 1), rig=one)


def used() -> CameraLidarMap:
    """A model whose norms know its features, so that both sensors matter."""
    backbone = build()
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        backbone.features(rig(2, seed=5))
    return backbone.eval()


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """The worst difference, relative to the largest number."""
    worst = (found - expected).abs().max() / expected.abs().max()
    assert float(worst) < tolerance


def test_cameras_and_a_lidar_become_one_map() -> None:
    backbone = used()
    both = rig(2)
    with torch.no_grad():
        (features,) = backbone.of_inputs(inputs(both)).features
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


def test_a_change_of_the_vehicle_moves_points_of_the_lidar() -> None:
    backbone, one = used(), rig()
    turned = torch.eye(4)
    turned[:2, :2] = 0.8 * torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    turned[0, 3] = 0.5
    assert one.points is not None
    (points,) = one.points
    moved = torch.cat([points[:, :3] @ turned[:3, :3].T + turned[:3, 3], points[:, 3:]], dim=1)
    with torch.no_grad():
        found = backbone.features(replace(one, vehicle_change=turned[None]))
        pose = turned @ one.camera_to_vehicle
        expected = backbone.features(replace(one, camera_to_vehicle=pose, points=(moved,)))
    assert_near(found, expected, 1e-3)


def test_mixed_precision_moves_no_point_of_the_sensors() -> None:
    backbone, one, given = used(), rig(), []
    turn = torch.eye(4)
    turn[:2, :2] = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    one = replace(one, vehicle_change=turn[None])
    backbone.lidar.register_forward_hook(lambda _, points, maps: given.append((points, maps)))
    with torch.no_grad():
        backbone.features(one)
        with torch.autocast("cpu", torch.bfloat16):
            backbone.features(one)
    (points, exact), (others, mixed) = given
    cells = backbone.lift.points(one, (8, 16))
    with torch.autocast("cpu", torch.bfloat16):
        assert backbone.lift.points(one, (8, 16)).equal(cells)
    assert points[0][0].equal(others[0][0])
    assert_near(mixed, exact, 0.05)


class TestCameraLidarMap(BackboneContract):
    idle = ("images.network.swin.layernorm.",)  # of a classifier

    def build(self) -> CameraLidarMap:
        return build()

    def size(self, backbone: CameraLidarMap) -> tuple[int, int]:
        """That of the map, which is not that of the images."""
        return 20, 20

    def run(self, backbone: CameraLidarMap, image: Tensor) -> Pyramid:
        rigs = []
        for one in functional.interpolate(image, (64, 128)):
            points = cloud(300)
            points[:, 3] = one.mean()
            rigs.append(replace(rig(), images=torch.stack([one, one / 2])[None], points=(points,)))
        return backbone.of_inputs(Inputs(image, rig=Rig.joined(rigs)))


def test_parts_and_inputs_that_do_not_fit() -> None:
    backbone = build()
    for one in (replace(rig(), points=None), None):
        with pytest.raises(InputError, match=r"^the model reads .*: give a rig[^\n]*$"):
            backbone.of_inputs(Inputs(images(1, 8, 8), rig=one))
    with pytest.raises(InputError, match=r"20 x 20 cells of the cameras and 10 x 10 of the LiDAR"):
        build(step_m=0.2)


def test_a_pass_without_points_is_counted() -> None:
    backbone = build().to("meta")
    features = backbone.features(backbone.example_rig((64, 128)))
    assert features.is_meta
    assert features.shape == (1, 16, 20, 20)


def test_ddp_brings_a_wider_map_to_the_width_of_its_decoder() -> None:
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
    loss = model.losses(inputs(rig(2)), target, draws=Draws((0, 1)))["loss"]
    loss.backward()
    assert float(loss.detach()) > 0
    with torch.no_grad():
        assert model.eval()(inputs(rig(2)), draws=Draws((0, 1))).maps.shape == (2, 2, 10, 10)
    with pytest.raises(InputError, match=r"\(16,\) channels, the decoder reads one map of 8"):
        DenseModel(task=task, method=partial(DDP, **parts, encoding=None))
