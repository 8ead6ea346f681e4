"""EVP: enhanced visual perception using inverse multi-attentive feature refinement and regularised
image-text alignment (Lavreniuk et al., 2023).

VPD with a refined pyramid (IMAFR), a latent divided by its data set's deviation
(``StableDiffusion(latent_scale=...)``), 40 text tokens per image or per data set, and for depth a
head of metric bins. Depth: ``Aggregated`` or ``LearnedSentences``, ``Merging`` and ``MetricBins``;
referring segmentation: ``LearnedSentences`` and ``ReferringDecoder``.
"""

import math
from functools import partial
from typing import Any

from torch import Tensor, nn

from diffsight.backbones import BackboneSource, StableDiffusion
from diffsight.backbones.attention_maps import MapRequest, Place
from diffsight.heads import DeconvHead
from diffsight.heads.base import HeadBuilder
from diffsight.methods.base import (
    AbstractMethod,
    Explanation,
    FitSettings,
    MethodBuilder,
    builder_of,
)
from diffsight.methods.parts import (
    AttentionMaps,
    EncodedLatent,
    append_maps,
    encode_fixed_latent,
    encode_latent,
    map_levels,
    pad,
    prompted_pyramid,
    require_fitting_text,
    widths_with_maps,
    without_padding,
)
from diffsight.methods.prompt_maps import explain_attention
from diffsight.necks import IMAFR, Merging
from diffsight.necks.base import NeckBuilder
from diffsight.outputs import Output, OutputSpec
from diffsight.prompts import AbstractPrompt, Aggregated
from diffsight.types import Draws, Inputs, Target

TOKENS = 8  # of the default condition for few images


class EVP(AbstractMethod):
    """VPD's pyramid, refined from fine to coarse.

    Differs from the paper: the latent is divided by one number per data set, not by one per
    component; the released code does so, and its checkpoints need it. Differs from the authors'
    code: any image size, padded as in VPD.

    Args:
        output: what to give; the task says it.
        backbone: Stable Diffusion; the authors train its autoencoder too (``trainable``).
        prompts: text condition.
        refine: builder of the refinement, or None (a row of the paper's table 4).
        head: builder of the head.
        neck: builder of what stands between the refined pyramid and the head, or None.
        attention_maps: levels that get the averaged maps, see ``VPD``.
        attention_places: layers that are averaged, see ``VPD``.
        detach_attention_maps: False lets gradients pass through the appended maps.
        timestep: step whose embedding conditions the UNet.

    Raises:
        InputError: if text and UNet do not fit together, or maps are asked for where none are.
    """

    output_kinds = ("values", "classes")
    accepts_prompt = True

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
        attention_places: tuple[Place, ...] = ("up", "down"),
        detach_attention_maps: bool = True,
        timestep: int = 1,
    ) -> None:
        super().__init__()
        require_fitting_text(prompts, backbone)
        levels = map_levels(attention_maps, attention_places, backbone)
        self.maps = MapRequest(levels, attention_places, detach_attention_maps)
        self.timestep = timestep
        self.backbone = backbone
        self.prompts = prompts
        self.size_multiple = backbone.size_multiple
        self.requires_prompt = prompts.requires_text
        channels = widths_with_maps(backbone.channels, levels, prompts.num_tokens)
        strides = backbone.strides
        self.refine: nn.Module | None = None
        self.neck: nn.Module | None = None
        if refine is not None:
            self.refine = built = refine(in_channels=channels, strides=strides)
            channels, strides = built.out_channels, built.out_strides
        if neck is not None:
            self.neck = built = neck(in_channels=channels, strides=strides)
            channels, strides = built.out_channels, built.out_strides
        self.head = head(in_channels=channels, strides=strides, output=output)

    def encode(self, inputs: Inputs) -> EncodedLatent:
        """Return the latent, unless it is drawn anew in every pass or its encoder learns."""
        return encode_fixed_latent(self.backbone, inputs)

    def forward(
        self,
        inputs: Inputs,
        encoded: EncodedLatent | None = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Output:
        """As VPD, with the refinement before the neck; any image size."""
        height, width = inputs.image.shape[-2:]
        latent = encoded.latent if encoded is not None else None
        if latent is None:
            image = pad(inputs.image, self.backbone.size_multiple)
            latent = encode_latent(self.backbone, image, inputs.latents, draws)
        pyramid = prompted_pyramid(
            self.backbone,
            latent,
            self.prompts(inputs),
            timestep=self.timestep,
            maps=self.maps,
            valid_hw=(height, width),
        )
        pyramid = append_maps(pyramid)
        if self.refine is not None:
            pyramid = self.refine(pyramid)
        if self.neck is not None:
            pyramid = self.neck(pyramid)
        return self.head(without_padding(pyramid)).cropped(height, width)

    def check_prompt(self, text: str | None) -> None:
        """Refuse a sentence that is missing where one is read, or longer than is read."""
        super().check_prompt(text)
        if text is not None:
            self.prompts.check(text)

    def example_text(self) -> Tensor | None:
        """Return the placeholder of the prompts."""
        return self.prompts.placeholder()

    def explain(self, inputs: Inputs, encoded: EncodedLatent | None = None) -> Explanation:
        """Return the output and the cross-attention map of every token."""
        return explain_attention(self, inputs, encoded)

    @classmethod
    def from_backbone(cls, source: BackboneSource, **options: Any) -> MethodBuilder:
        """Return a builder of an EVP whose UNet is trained, under fixed vectors for all images.

        Args:
            source: Stable Diffusion; every method built has a copy of its own.
            options: of the constructor.
        """

        def make(output: OutputSpec) -> AbstractMethod:
            backbone = source.fresh_diffusion(trainable=("unet",))
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

        return builder_of(cls, make)

    @classmethod
    def few_shot_defaults(cls) -> FitSettings:
        """Return AdamW with EVP's rate and decay, batches of 8."""
        return FitSettings({"": 5e-4}, batch_size=8, max_steps=2000, weight_decay=0.1)
