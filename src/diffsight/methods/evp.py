"""EVP: enhanced visual perception using inverse multi-attentive feature refinement and regularised
image-text alignment (Lavreniuk et al., 2023).

VPD with a refined pyramid (IMAFR), a latent divided by its data set's deviation
(``StableDiffusion(latent_scale=...)``), 40 text tokens per image or per data set, and for depth a
head of metric bins. Depth: ``Aggregated`` or ``Sentences``, ``Merging`` and ``MetricBins``;
referring segmentation: ``Sentences`` and ``ReferringDecoder``.
"""

from collections.abc import Sequence
from dataclasses import replace

from diffsight.backbones.attention_maps import MapRequest, Place
from diffsight.backbones.stable_diffusion import StableDiffusion
from diffsight.heads.base import HeadBuilder
from diffsight.methods.base import AbstractMethod
from diffsight.methods.prompted import (
    MAP_LEVELS,
    AttentionMaps,
    channels_with_maps,
    prompted_pyramid,
    without_padding,
)
from diffsight.necks.base import NeckBuilder
from diffsight.prompts import Prompts
from diffsight.types import Draws, Inputs, RawOutput, Target


class EVP(AbstractMethod):
    """VPD's pyramid, refined from fine to coarse.

    Differs from the paper: the latent is divided by one number per data set, not by one per
    component; the released code does so, and its checkpoints need it. Differs from the authors'
    code: any image size, padded as in VPD.

    Args:
        num_outputs: maps to give; the task says it.
        backbone: Stable Diffusion; the authors train its autoencoder too (``trainable``).
        prompts: text condition.
        refine: builder of the refinement, or None (a row of the paper's table 4).
        head: builder of the head.
        neck: builder of what stands between the refined pyramid and the head, or None.
        attention_maps: levels that get the averaged maps, see ``VPD``.
        attention_places: layers that are averaged.
        detach_attention_maps: False lets gradients pass through the appended maps.
        timestep: step whose embedding conditions the UNet.
    """

    def __init__(
        self,
        *,
        num_outputs: int,
        backbone: StableDiffusion,
        prompts: Prompts,
        head: HeadBuilder,
        refine: NeckBuilder | None = None,
        neck: NeckBuilder | None = None,
        attention_maps: AttentionMaps = "A32",
        attention_places: tuple[Place, ...] = ("up", "down"),
        detach_attention_maps: bool = True,
        timestep: int = 1,
    ) -> None:
        super().__init__()
        levels = MAP_LEVELS[attention_maps]
        self.maps = MapRequest(levels, attention_places, detach_attention_maps)
        self.timestep = timestep
        self.backbone = backbone
        self.prompts = prompts
        channels: Sequence[int] = channels_with_maps(backbone, prompts, levels)
        strides = backbone.strides
        self.refine = None
        if refine is not None:
            self.refine = refine(in_channels=channels, strides=strides)
            channels, strides = self.refine.out_channels, self.refine.out_strides
        self.neck = None
        if neck is not None:
            self.neck = neck(in_channels=channels, strides=strides)
            channels, strides = self.neck.out_channels, self.neck.out_strides
        self.head = head(in_channels=channels, strides=strides, num_outputs=num_outputs)

    def forward(
        self, inputs: Inputs, target: Target | None = None, *, draws: Draws | None = None
    ) -> RawOutput:
        """Pad, one pass, refine, drop what is padding, head; any image size."""
        pyramid = prompted_pyramid(
            self.backbone,
            self.prompts,
            inputs,
            maps=self.maps,
            timestep=self.timestep,
            draws=draws,
        )
        for neck in (self.refine, self.neck):
            if neck is not None:
                pyramid = neck(pyramid)
        raw = self.head(without_padding(pyramid))
        height, width = inputs.image.shape[-2:]
        return replace(raw, maps=raw.maps[..., :height, :width])
