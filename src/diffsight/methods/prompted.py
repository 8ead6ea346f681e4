"""What VPD and EVP share: one pass of a prompted UNet, its maps behind its features."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from diffsight.backbones.attention_maps import MapRequest
from diffsight.backbones.stable_diffusion import StableDiffusion
from diffsight.ops.padding import MID_GREY, crop_to_valid, pad_to_multiple
from diffsight.prompts import Prompts
from diffsight.types import Draws, InputError, Inputs, Pyramid

AttentionMaps = Literal["none", "A32", "A64"]
MAP_LEVELS = {"none": (), "A32": (1, 2), "A64": (0, 1, 2)}


def channels_with_maps(
    backbone: StableDiffusion, prompts: Prompts, levels: Sequence[int]
) -> list[int]:
    """Channels of ``prompted_pyramid``.

    Raises:
        InputError: if text and UNet do not fit together.
    """
    if prompts.dim != backbone.context_dim:
        raise InputError(
            f"the text table has vectors of {prompts.dim} numbers, the backbone takes "
            f"{backbone.context_dim}: set the table's dim to {backbone.context_dim}"
        )
    return [
        channels + (prompts.num_tokens if level in levels else 0)
        for level, channels in enumerate(backbone.channels)
    ]


def prompted_pyramid(
    backbone: StableDiffusion,
    prompts: Prompts,
    inputs: Inputs,
    *,
    maps: MapRequest,
    timestep: int,
    draws: Draws | None,
) -> Pyramid:
    """Pad to the backbone's multiple, one pass, append the maps; padding is still in it."""
    height, width = inputs.image.shape[-2:]
    pyramid = backbone(
        pad_to_multiple(inputs.image, backbone.size_multiple, MID_GREY),
        prompts(inputs),
        timestep=timestep,
        attention=maps,
        valid_hw=(height, width),
        draws=draws,
    )
    features = tuple(
        torch.cat([feature, pyramid.attention[level].to(feature.dtype)], dim=1)
        if level in pyramid.attention
        else feature
        for level, feature in enumerate(pyramid.features)
    )
    return replace(pyramid, features=features)


def without_padding(pyramid: Pyramid) -> Pyramid:
    """Rows and columns that hold nothing of the image go."""
    features = tuple(
        crop_to_valid(feature, pyramid.valid_hw, stride)
        for feature, stride in zip(pyramid.features, pyramid.strides, strict=True)
    )
    return replace(pyramid, features=features)
