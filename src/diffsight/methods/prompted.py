"""What VPD and EVP share: a pass of a prompted UNet, its maps behind its features, necks, head."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsight.backbones.attention_maps import MapRequest, Place
from diffsight.backbones.stable_diffusion import StableDiffusion
from diffsight.errors import InputError
from diffsight.heads.base import HeadBuilder
from diffsight.methods.base import LATENT, AbstractCachedMethod
from diffsight.necks.base import NeckBuilder
from diffsight.ops.padding import MID_GREY, crop_to_valid, pad_to_multiple
from diffsight.prompts import Prompts
from diffsight.types import Draws, Inputs, Pyramid, RawOutput, Target

AttentionMaps = Literal["none", "A32", "A64"]
MAP_LEVELS = {"none": (), "A32": (1, 2), "A64": (0, 1, 2)}


class AbstractPrompted(AbstractCachedMethod):
    """The wiring; a paper's file says what its parts are.

    Args:
        num_outputs: maps to give.
        backbone: Stable Diffusion.
        prompts: text condition.
        head: builder of the head.
        refine: builder of what all levels pass first, or None.
        neck: builder of what stands before the head, or None.
        attention_maps: levels that get the averaged maps.
        attention_places: layers that are averaged, see ``VPD``.
        detach_attention_maps: False lets gradients pass through the appended maps.
        timestep: step whose embedding conditions the UNet.

    Raises:
        InputError: if text and UNet do not fit together, or maps are asked for where none are.
    """

    def __init__(
        self,
        *,
        num_outputs: int,
        backbone: StableDiffusion,
        prompts: Prompts,
        head: HeadBuilder,
        refine: NeckBuilder | None,
        neck: NeckBuilder | None,
        attention_maps: AttentionMaps,
        attention_places: tuple[Place, ...],
        detach_attention_maps: bool,
        timestep: int,
    ) -> None:
        super().__init__()
        if prompts.dim != backbone.context_dim:
            raise InputError(
                f"the text table has vectors of {prompts.dim} numbers, the backbone takes "
                f"{backbone.context_dim}: set the table's dim to {backbone.context_dim}"
            )
        levels = _map_levels(attention_maps, attention_places, backbone)
        self.maps = MapRequest(levels, attention_places, detach_attention_maps)
        self.timestep = timestep
        self.backbone = backbone
        self.prompts = prompts
        channels: Sequence[int] = [
            channels + (prompts.num_tokens if level in levels else 0)
            for level, channels in enumerate(backbone.channels)
        ]
        strides = backbone.strides
        self.refine: nn.Module | None = None
        self.neck: nn.Module | None = None
        if refine is not None:
            built = refine(in_channels=channels, strides=strides)
            self.refine, channels, strides = built, built.out_channels, built.out_strides
        if neck is not None:
            built = neck(in_channels=channels, strides=strides)
            self.neck, channels, strides = built, built.out_channels, built.out_strides
        self.head = head(in_channels=channels, strides=strides, num_outputs=num_outputs)

    def encode(self, inputs: Inputs) -> Inputs:
        """With the latent in ``cached``, unless it is drawn anew in every pass or its encoder
        learns.
        """
        if not self.backbone.latent_is_fixed:
            return inputs
        latent = self.backbone.encode(self._padded(inputs))
        return replace(inputs, cached={**inputs.cached, LATENT: latent})

    def forward(
        self, inputs: Inputs, target: Target | None = None, *, draws: Draws | None = None
    ) -> RawOutput:
        """Pad to the backbone's multiple, one pass, drop what is padding, head; any image size."""
        height, width = inputs.image.shape[-2:]
        pyramid = self.backbone(
            self._padded(inputs),
            self.prompts(inputs),
            timestep=self.timestep,
            attention=self.maps,
            valid_hw=(height, width),
            draws=draws,
            latent=inputs.cached.get(LATENT),
        )
        pyramid = _with_maps(pyramid)
        for neck in (self.refine, self.neck):
            if neck is not None:
                pyramid = neck(pyramid)
        raw = self.head(_without_padding(pyramid))
        return replace(raw, maps=raw.maps[..., :height, :width])

    def _padded(self, inputs: Inputs) -> Float[Tensor, "b 3 h w"]:
        return pad_to_multiple(inputs.image, self.backbone.size_multiple, MID_GREY)


def _map_levels(
    maps: AttentionMaps, places: Collection[Place], backbone: StableDiffusion
) -> tuple[int, ...]:
    """The levels that get maps: those asked for, and of the middle block its own, the coarsest."""
    wanted = MAP_LEVELS[maps]
    if not wanted:
        return ()
    if "mid" in places:
        wanted = (*wanted, len(backbone.channels) - 1)
    levels = tuple(level for level in backbone.map_levels(places) if level in wanted)
    if not levels:
        raise InputError(
            f"attention_maps={maps!r} with attention_places={list(places)}: there is no such map: "
            "choose places among 'up', 'down' and 'mid', or attention_maps='none'"
        )
    return levels


def _with_maps(pyramid: Pyramid) -> Pyramid:
    features = tuple(
        torch.cat([feature, pyramid.attention[level].to(feature.dtype)], dim=1)
        if level in pyramid.attention
        else feature
        for level, feature in enumerate(pyramid.features)
    )
    return replace(pyramid, features=features)


def _without_padding(pyramid: Pyramid) -> Pyramid:
    features = tuple(
        crop_to_valid(feature, pyramid.valid_hw, stride)
        for feature, stride in zip(pyramid.features, pyramid.strides, strict=True)
    )
    return replace(pyramid, features=features)
