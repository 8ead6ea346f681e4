"""Small DDP models, and a count of the passes of their parts."""

from functools import partial
from typing import Any

import torch

from diffsight.backbones import VisionBackbone
from diffsight.diffusion import ClassEmbedding, ScalarMap
from diffsight.heads.map_decoder import MapDecoder
from diffsight.methods import DDP
from diffsight.model import DenseModel
from diffsight.necks import NormalisedFPN
from diffsight.tasks import Depth, Segmentation

CONVNEXT = {
    "model_type": "convnext",
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
}
NAMES = ("wall", "floor", "door", "lamp")


def ddp_parts(**options: Any) -> dict[str, Any]:
    """Return the arguments of a small DDP, except for ``encoding``."""
    torch.manual_seed(0)
    return {
        "backbone": VisionBackbone(architecture=CONVNEXT),
        "neck": partial(NormalisedFPN, width=16),
        "decoder": MapDecoder(width=16, layers=2, hidden=8, time_width=12),
        **options,
    }


def build_ddp_segmentation(**options: Any) -> DenseModel:
    """Return a small model of four classes."""
    arguments = ddp_parts(encoding=partial(ClassEmbedding, width=6), **options)
    return DenseModel(task=Segmentation(NAMES), method=partial(DDP, **arguments))


def build_ddp_depth(**options: Any) -> DenseModel:
    """Return a small model of depths up to 10 m."""
    arguments = ddp_parts(encoding=ScalarMap, time_input="time", **options)
    return DenseModel(task=Depth(max_depth_m=10.0), method=partial(DDP, **arguments))


def count_passes(model: DenseModel) -> dict[str, int]:
    """Return a count of encoder and decoder passes that every later pass of the model updates."""
    counts = {"backbone": 0, "decoder": 0}

    def count(name: str) -> Any:
        def hook(*args: Any) -> None:
            counts[name] += 1

        return hook

    for name in counts:
        getattr(model.method, name).register_forward_hook(count(name))
    return counts
