"""Functions that several methods share: padding, features of the UNet, attention maps."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsight.backbones.attention_maps import MapRecorder, MapRequest, UNetPart
from diffsight.backbones.base import AbstractDiffusionBackbone
from diffsight.backbones.stable_diffusion import StableDiffusion
from diffsight.errors import InputError
from diffsight.necks.base import NeckBuilder
from diffsight.ops.padding import MID_GREY, crop_to_valid, pad_to_multiple
from diffsight.prompts import AbstractPrompt
from diffsight.types import Draws, Encoded, Images, Latents, Pyramid

AttentionMaps = Literal["none", "A32", "A64"]
"""Levels of the pyramid to which cross-attention maps are appended (``MAP_LEVELS``)."""
MAP_LEVELS: dict[AttentionMaps, tuple[int, ...]] = {"none": (), "A32": (1, 2), "A64": (0, 1, 2)}


@dataclass(frozen=True)
class EncodedLatent(Encoded):
    """The latents of images.

    Attributes:
        latent: scaled latents of padded images; None if a new latent is sampled in every pass, or
            if the VAE is trained.
    """

    latent: Float[Tensor, "b c lh lw"] | None


def pad(image: Images, multiple: int) -> Float[Tensor, "b 3 ph pw"]:
    """Pad images on the right and at the bottom to a multiple of ``multiple`` pixels.

    The padding is mid-grey, which becomes 0 in [-1, 1].
    """
    return pad_to_multiple(image, multiple, MID_GREY)


def encode_latent(
    backbone: AbstractDiffusionBackbone,
    image: Images,
    latents: Latents | None,
    draws: Draws | None = None,
) -> Float[Tensor, "b c lh lw"]:
    """Return the latents of padded images.

    Args:
        backbone: diffusion model with the encoder.
        image: padded images in [0, 1].
        latents: cache of latents that several models share, or None. It is used only if an image
            always has the same latent.
        draws: random numbers, for a backbone that samples its latents.
    """
    if latents is None or not backbone.latent_is_fixed:
        return backbone.encode(image, draws=draws)
    return latents.get(backbone, image, backbone.encode)


def run_prompted_unet(
    backbone: StableDiffusion,
    latent: Float[Tensor, "b c lh lw"],
    condition: Float[Tensor, "b n e"],
    *,
    timestep: int,
    maps: MapRequest,
    valid_hw: tuple[int, int],
) -> Pyramid:
    """Run the UNet on latents without noise; return its features and cross-attention maps.

    Args:
        backbone: Stable Diffusion.
        latent: scaled latents of padded images.
        condition: one vector per token.
        timestep: timestep whose embedding conditions the UNet.
        maps: cross-attention maps to return.
        valid_hw: height and width of the images without padding.
    """
    recorder = MapRecorder(maps)
    timesteps = torch.full((latent.shape[0],), timestep, device=latent.device)
    features = backbone.features(latent, condition, timesteps, recorder)
    return Pyramid(features, backbone.strides, valid_hw, attention=recorder.close())


def map_levels(
    maps: AttentionMaps, unet_parts: Collection[UNetPart], backbone: StableDiffusion
) -> tuple[int, ...]:
    """Return the pyramid levels to which cross-attention maps are appended.

    Args:
        maps: levels, see ``MAP_LEVELS``; ``none`` for no level.
        unet_parts: parts of the UNet whose maps are averaged. With ``mid``, the level of the middle
            block is added to those of ``maps``.
        backbone: Stable Diffusion.

    Raises:
        InputError: if no layer in these parts of the UNet has maps of these levels.
    """
    requested = MAP_LEVELS[maps]
    if not requested:
        return ()
    if "mid" in unet_parts:
        requested = (*requested, len(backbone.channels) - 1)
    levels = tuple(level for level in backbone.map_levels(unet_parts) if level in requested)
    if not levels:
        raise InputError(
            f"attention_maps={maps!r} with attention_places={list(unet_parts)}: no layer has such "
            "maps: choose attention_places from 'up', 'down' and 'mid', or attention_maps='none'"
        )
    return levels


def build_neck(
    builder: NeckBuilder | None, channels: Sequence[int], strides: Sequence[int]
) -> tuple[nn.Module | None, Sequence[int], Sequence[int]]:
    """Return a neck, and the channels and strides of its output.

    Args:
        builder: builder of the neck; None: the neck is None, and nothing changes.
        channels: channels of the pyramid's levels, finest first.
        strides: image pixels per feature pixel of the levels.
    """
    if builder is None:
        return None, channels, strides
    neck = builder(in_channels=channels, strides=strides)
    return neck, neck.out_channels, neck.out_strides


def widths_with_maps(
    channels: Sequence[int], levels: Collection[int], num_tokens: int
) -> tuple[int, ...]:
    """Return the channels of a pyramid's levels after one map per token is appended.

    Args:
        channels: channels of the levels before, finest first.
        levels: levels to which maps are appended.
        num_tokens: number of tokens of the condition.
    """
    return tuple(c + num_tokens * (level in levels) for level, c in enumerate(channels))


def append_maps(pyramid: Pyramid) -> Pyramid:
    """Return the pyramid with the cross-attention maps appended to the features of their level."""
    features = tuple(
        torch.cat([feature, pyramid.attention[level].to(feature.dtype)], dim=1)
        if level in pyramid.attention
        else feature
        for level, feature in enumerate(pyramid.features)
    )
    return replace(pyramid, features=features)


def crop_padding(pyramid: Pyramid) -> Pyramid:
    """Return the pyramid without the rows and columns that contain only padding."""
    features = tuple(
        crop_to_valid(feature, pyramid.valid_hw, stride)
        for feature, stride in zip(pyramid.features, pyramid.strides, strict=True)
    )
    return replace(pyramid, features=features)


def require_fitting_text(prompts: AbstractPrompt, backbone: AbstractDiffusionBackbone) -> None:
    """Refuse prompts whose vectors do not have the width of the backbone's condition.

    Raises:
        InputError: if the widths differ.
    """
    if prompts.dim != backbone.context_dim:
        raise InputError(
            f"the prompts have vectors of {prompts.dim} numbers, the backbone takes "
            f"{backbone.context_dim}: set dim of the prompts to {backbone.context_dim}"
        )
