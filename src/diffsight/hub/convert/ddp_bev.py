"""Convert DDP's original checkpoints for BEV maps: cameras, or cameras and a LiDAR."""

from collections.abc import Mapping
from functools import partial as bind
from typing import Any

from torch import Tensor

from diffsight.backbones import VisionBackbone
from diffsight.backbones.bev import CameraLidarMap, CameraMap, LidarMap
from diffsight.backbones.bev.cameras import AbstractRigMap
from diffsight.backbones.bev.fusion import MORE_LAYERS
from diffsight.backbones.bev.geometry import Range
from diffsight.backbones.bev.lidar import BLOCKS
from diffsight.backbones.ldm_keys import KeyReport
from diffsight.diffusion import CosineNoise, MaskEmbedding, Sampler
from diffsight.errors import InputError
from diffsight.heads.map_decoder import MapDecoder
from diffsight.hub.convert.ddp import (
    TOWER,
    WINDOWS,
    layer_names,
    read_architecture,
    read_layers,
    translate_entries,
)
from diffsight.hub.convert.layout import Layout, convert, read_shape, require
from diffsight.methods import DDP
from diffsight.model import DenseModel
from diffsight.tasks import BEV

STAGES = ("stage2", "stage3", "stage4")
CAMERA, LIDAR = "encoders.camera.", "encoders.lidar."
LEVELS = 4  # resolutions of the sparse convolutions
KERNELS = ((3, 3, 3), (1, 1, 3))  # kernel sizes of the sparse convolutions
CAMERA_SEEDS, FUSION_SEEDS = 5, 4  # ensemble sizes in the authors' configurations
CONTEXT = 80  # channels of the image features that are lifted
LAYER = r"heads\.map\.encoder\.layers\.(\d+)\."
_BLOCK = r"decoder\.backbone\.(\d+)\.(\d+)\."
_SPARSE = r"encoders\.lidar\.backbone\."
_FUSION = {
    **{
        rf"{_SPARSE}conv_{theirs}\.{part}\.": f"backbone.lidar.encoder.{ours}.{name}."
        for theirs, ours in (("input", "first"), ("out", "last"))
        for part, name in enumerate(("conv", "norm"))
    },
    **{
        rf"{_SPARSE}encoder_layers\.encoder_layer{level + 1}\.{block}\.{theirs}{i}\.": (
            f"backbone.lidar.encoder.blocks.{BLOCKS * level + block}.{position}.{ours}."
        )
        for level in range(LEVELS)
        for block in range(BLOCKS)
        for i, position in ((1, "first"), (2, "second"))
        for theirs, ours in (("conv", "conv"), ("bn", "norm"))
    },
    **{
        rf"{_SPARSE}encoder_layers\.encoder_layer{level + 1}\.{BLOCKS}\.{part}\.": (
            f"backbone.lidar.encoder.smaller.{level}.{name}."
        )
        for level in range(LEVELS - 1)
        for part, name in enumerate(("conv", "norm"))
    },
    r"fuser\.": "backbone.fuse.",
    **{
        rf"decoder\.backbone\.blocks\.(\d+)\.{3 * layer + part}\.": (
            rf"backbone.encoder.stages.\1.{layer}.{part}."
        )
        for layer in range(1 + MORE_LAYERS)
        for part in range(2)
    },
    r"decoder\.neck\.deblocks\.(\d+)\.": r"backbone.join.levels.\1.",
}
_NAMES = {
    TOWER: "backbone.images.network.",
    r"transform\.conv\.": "fuse.",
    r"embedding_table\.": "encoding.table.",
    r"time_mlp\.0\.weights$": "time.frequencies",
    r"time_mlp\.1\.": "time.first.",
    r"time_mlp\.3\.": "time.second.",
    r"encoders\.camera\.neck\.lateral_convs\.(\d+)\.conv\.": r"backbone.pyramid.lateral.\1.0.",
    r"encoders\.camera\.neck\.lateral_convs\.(\d+)\.bn\.": r"backbone.pyramid.lateral.\1.1.",
    r"encoders\.camera\.neck\.fpn_convs\.(\d+)\.conv\.": r"backbone.pyramid.output.\1.0.",
    r"encoders\.camera\.neck\.fpn_convs\.(\d+)\.bn\.": r"backbone.pyramid.output.\1.1.",
    r"encoders\.camera\.vtransform\.depthnet\.": "backbone.lift.depth.",
    **{
        rf"encoders\.camera\.vtransform\.downsample\.{3 * block + part}\.": (
            f"backbone.lift.smooth.{block}.{part}."
        )
        for block in range(3)
        for part in range(2)
    },
    _BLOCK + r"conv1\.": r"backbone.encoder.stages.\1.\2.first.0.",
    _BLOCK + r"bn1\.": r"backbone.encoder.stages.\1.\2.first.1.",
    _BLOCK + r"conv2\.": r"backbone.encoder.stages.\1.\2.second.0.",
    _BLOCK + r"bn2\.": r"backbone.encoder.stages.\1.\2.second.1.",
    _BLOCK + r"downsample\.": r"backbone.encoder.stages.\1.\2.shortcut.",
    r"decoder\.neck\.fuse\.([01])\.": r"backbone.join.fuse.0.\1.",
    r"decoder\.neck\.fuse\.3\.": "backbone.join.fuse.1.0.",
    r"decoder\.neck\.fuse\.4\.": "backbone.join.fuse.1.1.",
    r"decoder\.neck\.upsample\.1\.": "backbone.join.enlarge.0.",
    r"decoder\.neck\.upsample\.2\.": "backbone.join.enlarge.1.",
    **_FUSION,
    **layer_names(LAYER),
    r"heads\.map\.conv_seg\.": "predict.",
}
_CONSTANTS = {
    f"{CAMERA}vtransform.{name}": "a constant of the map's and the depth's bins"
    for name in ("dx", "bx", "nx", "frustum")
}
LAYOUT = Layout("ddp-bev", "", "", _NAMES, WINDOWS | _CONSTANTS)


def convert_ddp_bev(
    state: Mapping[str, Tensor],
    *,
    x: Range = (-51.2, 51.2, 0.4),
    y: Range = (-51.2, 51.2, 0.4),
    depths: Range | None = None,
    cells: int = 200,
    cell_m: float = 0.5,
    steps: int = 3,
    seeds: int | None = None,
    image_hw: tuple[int, int] | None = (256, 704),
    cameras: int | None = 6,
    partial: bool = False,
) -> tuple[DenseModel, KeyReport]:
    """Return DDP's BEV map model with the weights of a checkpoint, and a report on its keys.

    The model reads a LiDAR, and its decoder layers have a time input, if the checkpoint has weights
    for them. Checkpoints of the released code have no time input.

    Args:
        state: checkpoint with the original names, without ``module.``.
        x: extent of the feature map in metres: begin, end and length of a cell. A LiDAR voxel is a
            quarter of a cell long.
        y: extent along the other axis, in the same form.
        depths: bins of the depth in metres: begin, end and step. Default: as many as the
            checkpoint has, from 1 m in steps of 0.5 m.
        cells: cells of the predicted map along each axis.
        cell_m: length of a cell of the predicted map in metres.
        steps: number of the sampler's steps.
        seeds: number of noise samples whose results are averaged; default: the authors' 5, or 4
            with a LiDAR.
        image_hw: height and width in pixels to which images are resized for the encoder; None: the
            size of the rig's images.
        cameras: number of cameras; None: any number.
        partial: accept missing entries (they keep their random initialisation).

    Raises:
        InputError: if ``state`` is of another model, or lacks entries.
    """
    require(state, LAYOUT)
    weights = {key: _to_spconv_1(value) for key, value in state.items()}
    has_lidar = any(key.startswith(LIDAR) for key in weights)
    ensemble_size = (FUSION_SEEDS if has_lidar else CAMERA_SEEDS) if seeds is None else seeds
    prefix = f"{CAMERA}backbone."
    architecture = read_architecture(weights, prefix)
    layers = read_layers(weights, "heads.map.")
    width = read_shape(weights, "transform.conv.weight", 4)[0]
    _, encoding_width = read_shape(weights, "embedding_table.weight", 2)
    lift = f"{CAMERA}vtransform.depthnet.weight"
    bins = read_shape(weights, lift, 4)[0] - CONTEXT
    if bins < 1:
        raise InputError(
            f"{lift} has {bins + CONTEXT} rows, but needs one for each of {CONTEXT} features and "
            "for each bin of the depth: convert a checkpoint of the released code"
        )
    depth_range = depths or (1.0, 1.0 + 0.5 * bins, 0.5)

    def build() -> DenseModel:
        sizes = {"x": x, "y": y, "depths": depth_range, "context": CONTEXT}
        sizes |= {"image_hw": image_hw, "cameras": cameras}
        backbone = _backbone(architecture, sizes, has_lidar=has_lidar)
        parts: dict[str, Any] = {
            "backbone": backbone,
            "neck": None,
            "decoder": MapDecoder(width=width, **layers),
            "encoding": bind(MaskEmbedding, width=encoding_width),
            "noise": CosineNoise(),
            "sampler": Sampler(steps=steps, seeds=ensemble_size, accumulate="mean"),
            "covers": cells * cell_m / (x[1] - x[0]),
        }
        task = BEV(cells=cells, cell_m=cell_m, forward_axis="y")  # as in nuScenes' LiDAR frame
        return DenseModel(task=task, method=bind(DDP, **parts))

    entries, originals = translate_entries(weights, architecture, prefix, STAGES)
    return convert(entries, LAYOUT, build, partial=partial, originals=originals)


def _backbone(
    architecture: Mapping[str, Any], sizes: Mapping[str, Any], *, has_lidar: bool
) -> AbstractRigMap:
    """Return a backbone that computes a BEV feature map from camera images and LiDAR points."""
    images = VisionBackbone(architecture=dict(architecture), stages=STAGES)
    if not has_lidar:
        return CameraMap(images, **sizes)
    low, high, step = zip(sizes["x"], sizes["y"], strict=True)
    x, y = zip(low, high, (step_m / 4 for step_m in step), strict=True)
    return CameraLidarMap(images, LidarMap(x=x, y=y), **sizes)


def _to_spconv_1(weight: Tensor) -> Tensor:
    """Return weights in the layout of spconv 1, if they are those of a sparse convolution.

    spconv 1 stores the axes as ``kernel in out``, spconv 2 as ``out kernel in``. The kernel has
    three axes.
    """
    if weight.ndim == 5 and weight.shape[:3] not in KERNELS and weight.shape[1:4] in KERNELS:
        return weight.movedim(0, -1).contiguous()
    return weight
