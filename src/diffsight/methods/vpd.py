"""VPD: visual perception with a pre-trained diffusion model (Zhao et al., ICCV 2023).

Equation 4: p(y | x, S) = p3(y | F) p2(F | x, C) p1(C | S). p1 is a text table and its adapter
(equation 5), p2 one pass of Stable Diffusion's encoder and UNet without noise, p3 a neck and a
head. Depth: ``TextTable``, ``Merging`` and ``DeconvHead``; segmentation: ``ClassTokens``, ``FPN``
and ``SemanticFPN``, referring segmentation: ``Sentences`` and ``ReferringDecoder``, both with
``attention_maps="A32"``.
"""

from dataclasses import replace
from typing import Literal

import torch

from diffsight.backbones.attention_maps import MapRequest, Place
from diffsight.backbones.stable_diffusion import StableDiffusion
from diffsight.heads.base import HeadBuilder
from diffsight.methods.base import AbstractMethod
from diffsight.necks.base import NeckBuilder
from diffsight.ops.padding import MID_GREY, crop_to_valid, pad_to_multiple
from diffsight.prompts.classes import ClassTokens
from diffsight.prompts.sentences import Sentences
from diffsight.prompts.text import TextTable
from diffsight.types import Draws, InputError, Inputs, Pyramid, RawOutput, Target

MAP_LEVELS = {"none": (), "A32": (1, 2), "A64": (0, 1, 2)}


class VPD(AbstractMethod):
    """Text-prompted UNet as a backbone; cross-attention maps as extra channels.

    Differs from the paper: timestep 1, not 0; the latent is the posterior's mode without Stable
    Diffusion's scale factor; attention maps enter without gradient. All three follow the authors'
    released code, which its checkpoints need.

    Args:
        num_outputs: maps to give; the task says it.
        backbone: Stable Diffusion.
        prompts: text condition.
        head: builder of the head.
        neck: builder of what stands between pyramid and head, or None.
        attention_maps: ``A32`` appends the averaged maps to strides 16 and 32 (the release, except
            for depth), ``A64`` to stride 8 too, ``none`` to no level (the release's depth model).
        attention_places: layers that are averaged.
        detach_attention_maps: False lets gradients pass through the appended maps.
        timestep: step whose embedding conditions the UNet.
    """

    def __init__(
        self,
        *,
        num_outputs: int,
        backbone: StableDiffusion,
        prompts: TextTable | ClassTokens | Sentences,
        head: HeadBuilder,
        neck: NeckBuilder | None = None,
        attention_maps: Literal["none", "A32", "A64"] = "none",
        attention_places: tuple[Place, ...] = ("up", "down"),
        detach_attention_maps: bool = True,
        timestep: int = 1,
    ) -> None:
        super().__init__()
        width = prompts.dim
        if width != backbone.context_dim:
            raise InputError(
                f"the text table has vectors of {width} numbers, the backbone takes "
                f"{backbone.context_dim}: set the table's dim to {backbone.context_dim}"
            )
        levels = MAP_LEVELS[attention_maps]
        self.maps = MapRequest(levels, attention_places, detach_attention_maps)
        self.timestep = timestep
        self.backbone = backbone
        self.prompts = prompts
        channels = [
            c + (prompts.num_tokens if level in levels else 0)
            for level, c in enumerate(backbone.channels)
        ]
        strides = backbone.strides
        self.neck = None
        if neck is not None:
            self.neck = neck(in_channels=channels, strides=strides)
            channels, strides = self.neck.out_channels, self.neck.out_strides
        self.head = head(in_channels=channels, strides=strides, num_outputs=num_outputs)

    def forward(
        self, inputs: Inputs, target: Target | None = None, *, draws: Draws | None = None
    ) -> RawOutput:
        """Pad to the backbone's multiple, one pass, drop what is padding, head; any image size."""
        height, width = inputs.image.shape[-2:]
        image = pad_to_multiple(inputs.image, self.backbone.size_multiple, MID_GREY)
        context = self.prompts(inputs)
        pyramid = self.backbone(
            image,
            context,
            timestep=self.timestep,
            attention=self.maps,
            valid_hw=(height, width),
            draws=draws,
        )
        pyramid = _append_maps(pyramid)
        if self.neck is not None:
            pyramid = self.neck(pyramid)
        pyramid = replace(
            pyramid,
            features=tuple(
                crop_to_valid(feature, pyramid.valid_hw, stride)
                for feature, stride in zip(pyramid.features, pyramid.strides, strict=True)
            ),
        )
        raw = self.head(pyramid)
        return replace(raw, maps=raw.maps[..., :height, :width])


def _append_maps(pyramid: Pyramid) -> Pyramid:
    features = tuple(
        torch.cat([feature, pyramid.attention[level].to(feature.dtype)], dim=1)
        if level in pyramid.attention
        else feature
        for level, feature in enumerate(pyramid.features)
    )
    return replace(pyramid, features=features)
