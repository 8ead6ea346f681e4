"""VPD: visual perception with a pre-trained diffusion model (Zhao et al., ICCV 2023).

Equation 4: p(y | x, S) = p3(y | F) p2(F | x, C) p1(C | S). p1 is a text table and its adapter
(equation 5), p2 one pass of Stable Diffusion's encoder and UNet without noise, p3 a neck and a
head. Depth: ``TextTable``, ``Merging`` and ``DeconvHead``; segmentation: ``ClassTokens``, ``FPN``
and ``SemanticFPN``, referring segmentation: ``Sentences`` and ``ReferringDecoder``, both with
``attention_maps="A32"``.
"""

from functools import partial
from typing import Any

from diffsight.backbones import BackboneSource, StableDiffusion
from diffsight.backbones.attention_maps import Place
from diffsight.heads import DeconvHead
from diffsight.heads.base import HeadBuilder
from diffsight.methods.base import AbstractMethod, FitSettings, MethodBuilder, builder_of
from diffsight.methods.parts import AttentionMaps, EncodedLatent, build_neck, without_padding
from diffsight.methods.prompted import AbstractPrompted
from diffsight.necks import Merging
from diffsight.necks.base import NeckBuilder
from diffsight.outputs import Output, OutputSpec
from diffsight.prompts import AbstractPrompt, TextTable
from diffsight.types import Draws, Inputs, Target


class VPD(AbstractPrompted):
    """Text-prompted UNet as a backbone; cross-attention maps as extra channels.

    Differs from the paper: timestep 1, not 0; the latent is the posterior's mode without Stable
    Diffusion's scale factor; attention maps enter without gradient. All three follow the authors'
    released code, which its checkpoints need.

    Args:
        output: what to give; the task says it.
        backbone: Stable Diffusion.
        prompts: text condition.
        head: builder of the head.
        neck: builder of what stands between pyramid and head, or None.
        attention_maps: ``A32`` appends the averaged maps to strides 16 and 32 (the release, except
            for depth), ``A64`` to stride 8 too, ``none`` to no level (the release's depth model).
        attention_places: layers that are averaged. With ``mid``, the middle block's map is appended
            to the level of its own size, stride 64: our reading of table 5, for neither the paper
            nor the released code says where.
        detach_attention_maps: False lets gradients pass through the appended maps.
        timestep: step whose embedding conditions the UNet.

    Raises:
        InputError: if text and UNet do not fit together, or maps are asked for where none are.
    """

    def __init__(
        self,
        *,
        output: OutputSpec,
        backbone: StableDiffusion,
        prompts: AbstractPrompt,
        head: HeadBuilder,
        neck: NeckBuilder | None = None,
        attention_maps: AttentionMaps = "none",
        attention_places: tuple[Place, ...] = ("up", "down"),
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
        """Pad to the backbone's multiple, one pass, drop what is padding, head; any image size."""
        height, width = inputs.image.shape[-2:]
        pyramid = self.pyramid(inputs, encoded, draws)
        if self.neck is not None:
            pyramid = self.neck(pyramid)
        return self.head(without_padding(pyramid)).cropped(height, width)

    @classmethod
    def from_backbone(cls, source: BackboneSource, **options: Any) -> MethodBuilder:
        """Return a builder of a VPD whose UNet is trained, under one learned vector.

        Differs from the paper's unstated recipe for few images: no text but one learned vector, and
        a narrow deconvolution head.

        Args:
            source: Stable Diffusion; every method built has a copy of its own.
            options: of the constructor.
        """

        def make(output: OutputSpec) -> AbstractMethod:
            backbone = source.fresh_diffusion(trainable=("unet",))
            parts: dict[str, Any] = {
                "prompts": TextTable(names=["any"], dim=backbone.context_dim, learn_rows=True),
                "neck": partial(Merging, width=128, groups=8),
                "head": partial(DeconvHead, widths=(32, 32, 32), width=32),
            }
            return cls(output=output, backbone=backbone, **{**parts, **options})

        return builder_of(cls, make)

    @classmethod
    def few_shot_defaults(cls) -> FitSettings:
        """Return AdamW with VPD's rate and decay, batches of 8.

        The whole UNet has the head's rate; the authors' depth recipe takes a hundredth of it, but
        on ten rooms the full rate did better than a tenth.
        """
        return FitSettings({"": 5e-4}, batch_size=8, max_steps=2000, weight_decay=0.1)
