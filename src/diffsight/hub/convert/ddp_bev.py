"""Converter of DDP's checkpoints of maps seen from above, of cameras alone."""

import re
from collections.abc import Mapping
from functools import partial as bind
from typing import Any

from torch import Tensor

from diffsight.backbones import VisionBackbone
from diffsight.backbones.bev import CameraMap
from diffsight.backbones.bev.cameras import Range
from diffsight.backbones.ldm_keys import KeyReport
from diffsight.diffusion import CosineNoise, MaskEmbedding, Sampler
from diffsight.heads.map_decoder import MapDecoder
from diffsight.hub.convert.ddp import architecture_of, layer_names, translated
from diffsight.hub.convert.layout import Layout, convert, require
from diffsight.methods import DDP
from diffsight.model import DenseModel
from diffsight.tasks import BEV

STAGES = ("stage2", "stage3", "stage4")
CAMERA = "encoders.camera."
CONTEXT = 80  # channels that are lifted
LAYER = r"heads\.map\.encoder\.layers\.(\d+)\."
_BLOCK = r"decoder\.backbone\.(\d+)\.(\d+)\."
_NAMES = {
    "encoder:": "backbone.images.network.",
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
    **layer_names(LAYER),
    r"heads\.map\.conv_seg\.": "predict.",
}
_CONSTANT = re.compile(r"encoders\.camera\.vtransform\.(dx|bx|nx|frustum)$")
LAYOUT = Layout("ddp-bev", "", "", _NAMES, {})


def convert_ddp_bev(
    state: Mapping[str, Tensor],
    *,
    x: Range = (-51.2, 51.2, 0.4),
    y: Range = (-51.2, 51.2, 0.4),
    depths: Range | None = None,
    cells: int = 200,
    cell_m: float = 0.5,
    steps: int = 3,
    seeds: int = 5,
    partial: bool = False,
) -> tuple[DenseModel, KeyReport]:
    """Return the map model of DDP and the key report.

    Whether the layers of the decoder know the time is read off the checkpoint: in the released code
    they do not.

    Args:
        state: original names, without ``module.``.
        x: of the features' map: begin, end and step in metres.
        y: likewise.
        depths: bins of the depth, likewise; default: as many as the checkpoint has, from 1 m on in
            steps of half a metre.
        cells: of the map that is predicted, along each axis.
        cell_m: their length in metres.
        steps: of the sampler.
        seeds: noises that are averaged.
        partial: accept missing entries (they keep their random initialisation).

    Raises:
        InputError: if it is a checkpoint of something else, or entries are missing.
    """
    require(state, LAYOUT)
    learned = {key: value for key, value in state.items() if not _CONSTANT.match(key)}
    prefix = f"{CAMERA}backbone."
    architecture = architecture_of(learned, prefix)
    layers = 1 + max(int(found[1]) for key in learned if (found := re.match(LAYER, key)))
    time = learned.get("heads.map.encoder.layers.0.time_mlp.1.weight")
    width = len(learned["transform.conv.weight"])
    bins = len(learned[f"{CAMERA}vtransform.depthnet.bias"]) - CONTEXT
    spans = depths or (1.0, 1.0 + 0.5 * bins, 0.5)

    def build() -> DenseModel:
        images = VisionBackbone(architecture=architecture, stages=STAGES)
        backbone = CameraMap(images, x=x, y=y, depths=spans, context=CONTEXT)
        parts: dict[str, Any] = {
            "backbone": backbone,
            "neck": None,
            "decoder": MapDecoder(
                width=width, layers=layers, time_width=None if time is None else time.shape[1]
            ),
            "encoding": bind(MaskEmbedding, width=learned["embedding_table.weight"].shape[1]),
            "noise": CosineNoise(),
            "sampler": Sampler(steps=steps, seeds=seeds, accumulate="mean"),
            "covers": cells * cell_m / (x[1] - x[0]),
        }
        return DenseModel(task=BEV(cells=cells, cell_m=cell_m), method=bind(DDP, **parts))

    entries = dict(translated(learned, architecture, prefix, STAGES))
    return convert(entries, LAYOUT, build, partial=partial)
