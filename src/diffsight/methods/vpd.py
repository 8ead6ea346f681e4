"""VPD: visual perception with a pre-trained diffusion model (Zhao et al., ICCV 2023).

Equation 4: p(y | x, S) = p3(y | F) p2(F | x, C) p1(C | S). p1 is a text table and its adapter
(equation 5), p2 one pass of Stable Diffusion's encoder and UNet without noise, p3 a neck and a
head. Depth: ``TextTable``, ``Merging`` and ``DeconvHead``; segmentation: ``ClassTokens``, ``FPN``
and ``SemanticFPN``, referring segmentation: ``Sentences`` and ``ReferringDecoder``, both with
``attention_maps="A32"``.
"""

from diffsight.backbones.attention_maps import Place
from diffsight.backbones.stable_diffusion import StableDiffusion
from diffsight.heads.base import HeadBuilder
from diffsight.methods.prompted import AbstractPrompted, AttentionMaps
from diffsight.necks.base import NeckBuilder
from diffsight.prompts import Prompts


class VPD(AbstractPrompted):
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
        attention_places: layers that are averaged. With ``mid``, the middle block's map is appended
            to the level of its own size, stride 64: our reading of table 5, for neither the paper
            nor the released code says where.
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
        neck: NeckBuilder | None = None,
        attention_maps: AttentionMaps = "none",
        attention_places: tuple[Place, ...] = ("up", "down"),
        detach_attention_maps: bool = True,
        timestep: int = 1,
    ) -> None:
        super().__init__(
            num_outputs=num_outputs,
            backbone=backbone,
            prompts=prompts,
            head=head,
            refine=None,
            neck=neck,
            attention_maps=attention_maps,
            attention_places=attention_places,
            detach_attention_maps=detach_attention_maps,
            timestep=timestep,
        )
