"""VPD: visual perception with a pre-trained diffusion model (Zhao et al., ICCV 2023).

Equation 4: p(y | x, S) = p3(y | F) p2(F | x, C) p1(C | S), for an image x, a text S and a label y.
p1 is a text table and its adapter (equation 5), p2 is one pass of Stable Diffusion's encoder and
UNet without noise, and p3 is a neck and a head. The main recipes use these parts:

* depth: ``TextTable``, ``Merging`` and ``DeconvHead``;
* segmentation: ``ClassTokens``, ``FPN`` and ``SemanticFPN``, with ``attention_maps="A32"``;
* referring segmentation: ``Sentences`` and ``ReferringDecoder``, with ``attention_maps="A32"``.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from diffsight.backbones import BackboneSource, StableDiffusion
from diffsight.backbones.attention_maps import UNetPart
from diffsight.heads import DeconvHead, HeatmapHead, SemanticFPN
from diffsight.heads.base import HeadBuilder
from diffsight.methods.base import AbstractMethod, FitSettings, MethodBuilder, make_builder
from diffsight.methods.parts import AttentionMaps, EncodedLatent, build_neck, crop_padding
from diffsight.methods.prompted import AbstractPromptedMethod
from diffsight.necks import FPN, Merging
from diffsight.necks.base import NeckBuilder
from diffsight.outputs import Output, OutputSpec
from diffsight.prompts import AbstractPrompt, ClassTokens, TextTable, Unprompted
from diffsight.types import Draws, Inputs, Target


class VPD(AbstractPromptedMethod):
    """A text-prompted UNet as the backbone, with cross-attention maps as extra channels.

    Differs from the paper: timestep 1, not 0; the latent is the posterior's mode without Stable
    Diffusion's scale factor; no gradient passes through the attention maps. All three follow the
    authors' released code, and their checkpoints need it.

    Args:
        output: specification of the output; the task sets it.
        backbone: Stable Diffusion.
        prompts: text condition.
        head: builder of the head.
        neck: builder of the neck between pyramid and head, or None.
        attention_maps: levels to which the averaged cross-attention maps are appended: ``A32``
            strides 16 and 32 (as released, except for depth), ``A64`` stride 8 too, ``none`` no
            level (the released depth model).
        attention_places: parts of the UNet whose layers are averaged. ``mid`` appends the map of
            the middle block to the level of its own size, stride 64. That is our reading of table
            5: neither the paper nor the released code states the level.
        detach_attention_maps: False lets gradients pass through the appended maps.
        timestep: timestep whose embedding conditions the UNet.

    Raises:
        InputError: if prompts and UNet differ in width, or there are no maps to append.
    """

    output_kinds = ("values", "classes", "heatmaps")

    def __init__(
        self,
        *,
        output: OutputSpec,
        backbone: StableDiffusion,
        prompts: AbstractPrompt,
        head: HeadBuilder,
        neck: NeckBuilder | None = None,
        attention_maps: AttentionMaps = "none",
        attention_places: tuple[UNetPart, ...] = ("up", "down"),
        detach_attention_maps: bool = True,
        timestep: int = 1,
    ) -> None:
        super().__init__(
            backbone, prompts, attention_maps, attention_places, detach_attention_maps, timestep
        )
        self.neck, channels, strides = build_neck(neck, self.pyramid_channels, backbone.strides)
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
        if self.neck is not None:
            pyramid = self.neck(pyramid)
        return self.head(crop_padding(pyramid)).cropped(height, width)

    @classmethod
    def supports(cls, source: BackboneSource) -> bool:
        """Return whether the backbone is a diffusion model."""
        return source.is_diffusion

    @classmethod
    def from_backbone(
        cls,
        source: BackboneSource,
        *,
        class_names: Sequence[str] = (),
        gradient_checkpointing: bool = False,
        **options: Any,
    ) -> MethodBuilder:
        """Return a builder of a VPD whose UNet is trained.

        With Stable Diffusion, prompts, neck and head are those of the authors. An output of classes
        uses one token per class name, the attention maps of the tokens, and Semantic FPN. Other
        outputs use the deconvolution head and an empty prompt, because a few labelled images come
        without a scene type. With the embedded model, neck and head are small, and the prompt is
        one trainable vector.

        Args:
            source: Stable Diffusion; every built method gets its own copy.
            class_names: names of the predicted classes, for an output of classes.
            gradient_checkpointing: recompute the UNet in the backward pass, to save memory.
            options: arguments of the constructor.
        """

        def make(output: OutputSpec) -> AbstractMethod:
            width = 32 if source.is_embedded else 192
            head: Any = partial(DeconvHead, widths=(32, 32, 32), width=width)
            if output.kind == "heatmaps":
                head = partial(HeatmapHead, width=2 * width)
            scale = {} if source.is_embedded else {"latent_scale": 1.0}
            backbone = source.fresh_diffusion(
                trainable=("unet",), gradient_checkpointing=gradient_checkpointing, **scale
            )
            parts: dict[str, Any]
            if source.is_embedded:
                parts = {
                    "prompts": TextTable(names=["any"], dim=backbone.context_dim, learn_rows=True),
                    "neck": partial(Merging, width=128, groups=8),
                    "head": head,
                }
            elif output.kind == "classes" and class_names:
                tokens = ClassTokens.from_names(class_names, source.name, dim=backbone.context_dim)
                parts = {
                    "prompts": tokens,
                    "attention_maps": "A32",
                    "neck": FPN,
                    "head": SemanticFPN,
                }
            else:
                parts = {
                    "prompts": Unprompted.from_folder(source.folder, backbone.context_dim),
                    "neck": partial(Merging, width=1536, groups=math.gcd(16, *backbone.channels)),
                    "head": head,
                }
            return cls(output=output, backbone=backbone, **{**parts, **options})

        return make_builder(cls, make)

    @classmethod
    def few_shot_defaults(cls) -> FitSettings:
        """Return settings with VPD's learning rate and weight decay, and batches of 8.

        The UNet has the same learning rate as the head. With the embedded model and ten rooms this
        scored better than a tenth of the rate.
        """
        return FitSettings({"": 5e-4}, batch_size=8, max_steps=2000, weight_decay=0.1)

    @classmethod
    def few_shot_settings(cls, source: BackboneSource, output: OutputSpec) -> FitSettings:
        """Return settings with the authors' learning rates and weight decay for Stable Diffusion.

        In their recipes the UNet has a hundredth of the head's learning rate for depth, and a tenth
        for classes. For the embedded model the settings are ``few_shot_defaults``.
        """
        defaults = cls.few_shot_defaults()
        if source.is_embedded:
            return defaults
        if output.kind == "classes":
            rates = {"": 8e-5, "backbone": 8e-6}
            return replace(defaults, learning_rates=rates, weight_decay=1e-3)
        return replace(defaults, learning_rates={"": 5e-4, "backbone": 5e-6})
