"""EVP: enhanced visual perception using inverse multi-attentive feature refinement and regularised
image-text alignment (Lavreniuk et al., 2023).

VPD with a refined pyramid (IMAFR), a latent divided by the standard deviation of the data set
(``StableDiffusion(latent_scale=...)``), 40 text tokens per image or per data set, and for depth a
head of metric bins. The main recipes use these parts:

* depth: ``Aggregated`` or ``LearnedSentences``, ``Merging`` and ``MetricBins``;
* referring segmentation: ``LearnedSentences`` and ``ReferringDecoder``.
"""

import math
from functools import partial
from typing import Any

from diffsight.backbones import BackboneSource, StableDiffusion
from diffsight.backbones.attention_maps import UNetPart
from diffsight.heads import DeconvHead
from diffsight.heads.base import HeadBuilder
from diffsight.methods.base import AbstractMethod, FitSettings, MethodBuilder, make_builder
from diffsight.methods.parts import (
    AttentionMaps,
    EncodedLatent,
    build_neck,
    crop_padding,
    map_levels,
    widths_with_maps,
)
from diffsight.methods.prompted import AbstractPromptedMethod
from diffsight.necks import IMAFR, Merging
from diffsight.necks.base import NeckBuilder
from diffsight.outputs import Output, OutputSpec
from diffsight.prompts import AbstractPrompt, Aggregated
from diffsight.types import Draws, Inputs, Target

TOKENS = 8  # number of tokens of the default prompt for a few labelled images


class EVP(AbstractPromptedMethod):
    """VPD with a pyramid that is refined from fine to coarse.

    Differs from the paper: the recipes divide the latent by one number per data set, not by one per
    channel (which ``latent_scale`` supports). They follow the released code, and its checkpoints
    need it. Differs from the authors' code: images of any size are padded as in VPD.

    Args:
        output: specification of the output; the task sets it.
        backbone: Stable Diffusion; the authors train its autoencoder too (``trainable``).
        prompts: text condition.
        refine: builder of the refinement of the pyramid, or None (a row of the paper's table 4).
        head: builder of the head.
        neck: builder of the neck between the refined pyramid and the head, or None.
        attention_maps: levels to which averaged cross-attention maps are appended, see ``VPD``.
        attention_places: parts of the UNet whose layers are averaged, see ``VPD``.
        detach_attention_maps: False lets gradients pass through the appended maps.
        timestep: timestep whose embedding conditions the UNet.

    Raises:
        InputError: if prompts and UNet differ in width, or there are no maps to append.
    """

    def __init__(
        self,
        *,
        output: OutputSpec,
        backbone: StableDiffusion,
        prompts: AbstractPrompt,
        head: HeadBuilder,
        refine: NeckBuilder | None = None,
        neck: NeckBuilder | None = None,
        attention_maps: AttentionMaps = "A32",
        attention_places: tuple[UNetPart, ...] = ("up", "down"),
        detach_attention_maps: bool = True,
        timestep: int = 1,
    ) -> None:
        super().__init__(
            backbone, prompts, attention_maps, attention_places, detach_attention_maps, timestep
        )
        channels, strides = self.pyramid_channels, backbone.strides
        self.refine, channels, strides = build_neck(refine, channels, strides)
        self.neck, channels, strides = build_neck(neck, channels, strides)
        self.head = head(in_channels=channels, strides=strides, output=output)

    def forward(
        self,
        inputs: Inputs,
        encoded: EncodedLatent | None = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Output:
        """Return the output for images of any size; they are padded for one pass of the UNet."""
        height, width = inputs.image.shape[-2:]
        pyramid = self.pyramid(inputs, encoded, draws)
        if self.refine is not None:
            pyramid = self.refine(pyramid)
        if self.neck is not None:
            pyramid = self.neck(pyramid)
        return self.head(crop_padding(pyramid)).cropped(height, width)

    @classmethod
    def supports(cls, source: BackboneSource) -> bool:
        """Return whether the backbone is a diffusion model."""
        return source.is_diffusion

    @classmethod
    def from_backbone(
        cls, source: BackboneSource, *, gradient_checkpointing: bool = False, **options: Any
    ) -> MethodBuilder:
        """Return a builder of an EVP whose UNet is trained, with one prompt for all images.

        Args:
            source: Stable Diffusion; every built method gets its own copy.
            gradient_checkpointing: recompute the UNet in the backward pass, to save memory.
            options: arguments of the constructor.
        """

        def make(output: OutputSpec) -> AbstractMethod:
            backbone = source.fresh_diffusion(
                trainable=("unet",), gradient_checkpointing=gradient_checkpointing
            )
            levels = map_levels("A32", ("up", "down"), backbone)
            widths = widths_with_maps(backbone.channels, levels, TOKENS)
            groups = math.gcd(*widths, *(width // 2 for width in widths[:-1]))
            parts: dict[str, Any] = {
                "prompts": Aggregated(TOKENS, dim=backbone.context_dim),
                "refine": partial(IMAFR, groups=groups),
                "neck": partial(Merging, width=128, groups=8),
                "head": partial(DeconvHead, widths=(32, 32, 32), width=32),
            }
            return cls(output=output, backbone=backbone, **{**parts, **options})

        return make_builder(cls, make)

    @classmethod
    def few_shot_defaults(cls) -> FitSettings:
        """Return settings with EVP's learning rate and weight decay, and batches of 8."""
        return FitSettings({"": 5e-4}, batch_size=8, max_steps=2000, weight_decay=0.1)
