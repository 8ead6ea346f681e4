"""The converter of DDP's BEV checkpoints: all keys, both spconv layouts, and refusals."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support import noise
from torch import Tensor

from diffsight.backbones.bev import CameraLidarMap, CameraMap
from diffsight.errors import InputError
from diffsight.hub.convert import IncompleteError, convert_ddp_bev

CAMERA = Path(__file__).parents[2] / "parity" / "ddp_bev" / "manifest_stock.json"
Shape = tuple[int, ...]
PARAMETERS = 42_064_222  # entries of the complete model
LIDAR_PARAMETERS = 2_694_352


def norm_entries(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    """Yield the entries of a batch normalisation."""
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (width,)
    yield f"{name}.num_batches_tracked", ()


def lidar_entries() -> Iterator[tuple[str, Shape]]:
    """Yield the entries of the sparse encoder, in the layout of spconv 1."""
    prefix = "encoders.lidar.backbone"

    def layer(conv: str, bn: str, *shape: int) -> Iterator[tuple[str, Shape]]:
        yield f"{conv}.weight", shape
        yield from norm_entries(bn, shape[-1])

    yield from layer(f"{prefix}.conv_input.0", f"{prefix}.conv_input.1", 3, 3, 3, 5, 16)
    for level, (width, wider) in enumerate(((16, 32), (32, 64), (64, 128), (128, 0)), start=1):
        stage = f"{prefix}.encoder_layers.encoder_layer{level}"
        for block in range(2):
            for i in (1, 2):
                names = f"{stage}.{block}.conv{i}", f"{stage}.{block}.bn{i}"
                yield from layer(*names, 3, 3, 3, width, width)
        if wider:
            yield from layer(f"{stage}.2.0", f"{stage}.2.1", 3, 3, 3, width, wider)
    yield from layer(f"{prefix}.conv_out.0", f"{prefix}.conv_out.1", 1, 1, 3, 128, 128)


def fusion_entries() -> Iterator[tuple[str, Shape]]:
    """Yield the entries of the layers that fuse the maps and encode the fused map."""
    yield "fuser.0.weight", (256, 80 + 256, 3, 3)
    yield from norm_entries("fuser.1", 256)
    for stage, (channels, width) in enumerate(((256, 128), (128, 256))):
        for layer in range(6):
            name = f"decoder.backbone.blocks.{stage}"
            yield f"{name}.{3 * layer}.weight", (width, width if layer else channels, 3, 3)
            yield from norm_entries(f"{name}.{3 * layer + 1}", width)
    yield "decoder.neck.deblocks.0.0.weight", (256, 128, 1, 1)
    yield "decoder.neck.deblocks.1.0.weight", (256, 256, 2, 2)
    for level in range(2):
        yield from norm_entries(f"decoder.neck.deblocks.{level}.1", 256)
    yield "transform.conv.weight", (256, 512 + 256, 1, 1)


@pytest.fixture
def original() -> dict[str, Tensor]:
    """Return the authors' entries without values; shapes of the camera part are in a file."""
    shapes = {
        key: tuple(entry["shape"])
        for key, entry in json.loads(CAMERA.read_text()).items()
        if not key.startswith("decoder.")
    }
    depth = "encoders.camera.vtransform.depthnet"
    shapes |= {f"{depth}.weight": (118 + 80, 256, 1, 1), f"{depth}.bias": (118 + 80,)}
    shapes |= {**dict(lidar_entries()), **dict(fusion_entries())}
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.fixture
def shallow(original: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries with only one block in each stage of the image encoder."""
    later = re.compile(r"encoders\.camera\.backbone\.stages\.\d\.blocks\.[1-9]")
    return {key: value for key, value in original.items() if not later.match(key)}


def to_spconv_2(key: str, value: Tensor) -> Tensor:
    """Return an entry in the layout of spconv 2, which differs for sparse convolutions only."""
    is_sparse = key.startswith("encoders.lidar.") and value.ndim == 5
    return value.permute(4, 0, 1, 2, 3).contiguous() if is_sparse else value


def test_every_key_of_the_checkpoint_is_used(original: dict[str, Tensor]) -> None:
    model, report = convert_ddp_bev(original)
    assert not report.unused
    assert not report.missing
    assert set(report.used) | set(report.dropped) == set(original)
    used = [name for names in report.used.values() for name in names.split(", ")]
    assert sorted(used) == sorted(model.state_dict())
    method: Any = model.method
    assert isinstance(method.backbone, CameraLidarMap)
    assert method.backbone.lidar.shape == (1024, 1024, 41)
    assert method.backbone.channels == (512,)
    assert method.fuse.weight.shape == (256, 768, 1, 1)
    unused = "backbone.images.network.swin.layernorm."  # of a classifier
    ours = {n: p.numel() for n, p in method.named_parameters() if not n.startswith(unused)}
    assert sum(n for name, n in ours.items() if ".lidar." in name) == LIDAR_PARAMETERS
    assert sum(ours.values()) == PARAMETERS
    constants = re.compile(
        r".*(running_mean|running_var|num_batches_tracked|relative_position_index)$"
        r"|encoders\.camera\.vtransform\.(dx|bx|nx|frustum)$"
    )
    theirs = sum(value.numel() for key, value in original.items() if not constants.match(key))
    assert theirs == PARAMETERS
    assert (method.sampler.steps, method.sampler.seeds) == (3, 4)


def test_a_camera_only_checkpoint_is_sampled_with_five_seeds() -> None:
    cameras = {
        key: torch.empty(entry["shape"], device="meta")
        for key, entry in json.loads(CAMERA.read_text()).items()
    }
    model, report = convert_ddp_bev(cameras)
    assert not report.missing
    method: Any = model.method
    assert isinstance(method.backbone, CameraMap)
    assert (method.sampler.steps, method.sampler.seeds) == (3, 5)


def test_both_layouts_of_spconv_convert_to_the_same_model(shallow: dict[str, Tensor]) -> None:
    values = {
        key: noise(*value.shape, seed=seed)
        for seed, (key, value) in enumerate(shallow.items())
        if key.startswith("encoders.lidar.") and value.ndim
    }
    first = {**shallow, **values}
    second = {key: to_spconv_2(key, value) for key, value in first.items()}
    weight = "encoders.lidar.backbone.conv_out.0.weight"
    assert (first[weight].shape, second[weight].shape) == ((1, 1, 3, 128, 128), (128, 1, 1, 3, 128))
    (one, report), (other, _) = convert_ddp_bev(first), convert_ddp_bev(second)
    ours, others = one.state_dict(), other.state_dict()
    for key, value in values.items():
        assert ours[report.used[key]].equal(value)
        assert others[report.used[key]].equal(value)


def test_wrong_shapes_and_missing_parts_are_refused(shallow: dict[str, Tensor]) -> None:
    weight = "encoders.lidar.backbone.conv_input.0.weight"
    other = {**shallow, weight: torch.empty(3, 3, 3, 4, 16, device="meta")}
    with pytest.raises(InputError, match=r"conv_input.0.weight has shape \(3, 3, 3, 4, 16\), DDP"):
        convert_ddp_bev(other)
    without = {key: value for key, value in shallow.items() if not key.startswith("fuser.")}
    with pytest.raises(IncompleteError, match=r"6 entries are missing \(method.backbone.fuse.0"):
        convert_ddp_bev(without)


def test_the_voxel_size_follows_the_resolution_of_the_map(shallow: dict[str, Tensor]) -> None:
    model, _ = convert_ddp_bev(shallow, x=(-25.6, 25.6, 0.2), cells=100, seeds=2)
    method: Any = model.method
    assert method.sampler.seeds == 2
    assert method.covers == 50 / 51.2
    lidar = method.backbone.lidar
    assert lidar.shape == (1024, 1024, 41)
    assert [axis.step_m for axis in lidar.axes] == [0.05, 0.1, 0.2]
