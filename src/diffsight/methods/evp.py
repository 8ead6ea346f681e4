"""EVP: enhanced visual perception using inverse multi-attentive feature refinement and regularised
image-text alignment (Lavreniuk et al., 2023).

VPD with a refined pyramid (IMAFR), a latent divided by its data set's deviation
(``StableDiffusion(latent_scale=...)``), 40 text tokens per image or per data set, and for depth a
head of metric bins. Depth: ``Aggregated`` or ``LearnedSentences``, ``Merging`` and ``MetricBins``;
referring segmentation: ``LearnedSentences`` and ``ReferringDecoder``.
"""

from diffsight.backbones.attention_maps import Place
from diffsight.backbones.stable_diffusion import StableDiffusion
from diffsight.heads.base import HeadBuilder
from diffsight.methods.prompted import AbstractPrompted, AttentionMaps
from diffsight.necks.base import NeckBuilder
from diffsight.prompts import Prompts


class EVP(AbstractPrompted):
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
        attention_places: layers that are averaged, see ``VPD``.
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
        super().__init__(
            num_outputs=num_outputs,
            backbone=backbone,
            prompts=prompts,
            head=head,
            refine=refine,
            neck=neck,
            attention_maps=attention_maps,
            attention_places=attention_places,
            detach_attention_maps=detach_attention_maps,
            timestep=timestep,
        )
