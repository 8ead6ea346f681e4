"""A VPD depth model of Stable Diffusion's topology, small enough to make many of."""

import functools

import torch

from diffsight.backbones import StableDiffusion
from diffsight.heads.deconv import DeconvHead
from diffsight.methods.vpd import VPD
from diffsight.model import DenseModel
from diffsight.necks.merging import Merging
from diffsight.prompts.text import TextTable
from diffsight.tasks.depth import MetricDepth

ARCHITECTURE = {
    "unet": {
        "block_out_channels": (8, 8, 8, 8),
        "layers_per_block": 1,
        "cross_attention_dim": 8,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
    },
    "vae": {"block_out_channels": (4, 4, 4, 4), "layers_per_block": 1, "norm_num_groups": 2},
}


def tiny(seed: int = 0, *, head_width: int = 8) -> DenseModel:
    torch.manual_seed(seed)
    return DenseModel(
        task=MetricDepth(max_depth_m=8.0),
        method=functools.partial(
            VPD,
            backbone=StableDiffusion(ARCHITECTURE),
            prompts=TextTable(["kitchen", "office"], dim=8),
            neck=functools.partial(Merging, width=8, groups=4),
            head=functools.partial(DeconvHead, widths=(8, 8, 8), width=head_width, max_value=8.0),
        ),
    ).eval()
