"""Tiny models with the topology of Stable Diffusion, for scripts and tests."""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffsight.backbones import StableDiffusion
from diffsight.backbones.ldm_keys import unet_prefixes
from diffsight.heads.deconv import DeconvHead
from diffsight.methods import VPD
from diffsight.model import DenseModel
from diffsight.necks.merging import Merging
from diffsight.prompts.text import TextTable
from diffsight.tasks.depth import Depth

ARCHITECTURE = {
    "unet": {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 8, 8, 8),
        "layers_per_block": 1,
        "cross_attention_dim": 8,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
    },
    "vae": {
        "latent_channels": 4,
        "block_out_channels": (4, 4, 4, 4),
        "layers_per_block": 1,
        "norm_num_groups": 2,
    },
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_VAE = (
    ("down_blocks", "down"),
    ("resnets", "block"),
    ("downsamplers.0.conv", "downsample.conv"),
    ("mid_block.block.0", "mid.block_1"),
    ("mid_block.block.1", "mid.block_2"),
    ("mid_block.attentions.0", "mid.attn_1"),
    ("group_norm", "norm"),
    ("to_out.0", "proj_out"),
    ("to_", ""),
    ("conv_norm_out", "norm_out"),
    ("conv_shortcut", "nin_shortcut"),
)


def tiny_method(*, head_width: int = 8) -> Any:
    """Return a function that builds VPD with random weights."""
    return functools.partial(
        VPD,
        backbone=StableDiffusion(ARCHITECTURE),
        prompts=TextTable(["kitchen", "office"], dim=8),
        neck=functools.partial(Merging, width=8, groups=4),
        head=functools.partial(DeconvHead, widths=(8, 8, 8), width=head_width),
    )


def tiny(seed: int = 0, *, head_width: int = 8) -> DenseModel:
    """Return a depth model with random weights, for depths up to 8 m."""
    torch.manual_seed(seed)
    method = tiny_method(head_width=head_width)
    return DenseModel(task=Depth(max_depth_m=8.0), method=method).eval()


def original_entries(
    unet: Mapping[str, Tensor], vae: Mapping[str, Tensor], *, layers: int
) -> dict[str, Tensor]:
    """Return the entries of an original Stable Diffusion checkpoint, from diffusers state dicts.

    Args:
        unet: state dict of a UNet with four levels; the last level has no attention.
        vae: state dict of an autoencoder.
        layers: number of residual blocks per level of the UNet.
    """
    table = unet_prefixes(4, layers, (True, True, True, False))
    prefixes = {new: old for old, new in table.items()}
    state = {}
    for key, value in unet.items():
        new = max((p for p in prefixes if key.startswith(p + ".")), key=len)
        rest = key[len(new) + 1 :]
        if ".resnets." in new:
            module, _, leaf = rest.rpartition(".")
            rest = f"{_RESNET[module]}.{leaf}"
        state[f"model.diffusion_model.{prefixes[new]}.{rest}"] = value.clone()
    for key, value in vae.items():
        if key.startswith(("encoder", "quant")):
            if ".attentions." in key and value.ndim == 2:
                value = value[..., None, None]
            for new, old in _VAE:
                key = key.replace(new, old)
        state[f"first_stage_model.{key}"] = value.clone()
    return state
