"""Convert EVP's original checkpoints."""

import math
from collections.abc import Mapping
from functools import partial as bind

from torch import Tensor

from diffsight.backbones.ldm_keys import KeyReport
from diffsight.backbones.stable_diffusion import StableDiffusion
from diffsight.errors import InputError
from diffsight.heads import MetricBins, ReferringDecoder
from diffsight.hub.convert.layout import Layout, convert, require, unused_prefixes
from diffsight.hub.convert.vpd import DEPTH as VPD_DEPTH
from diffsight.hub.convert.vpd import REFERRING as VPD_REFERRING
from diffsight.hub.convert.vpd import count_tokens
from diffsight.methods import EVP
from diffsight.model import DenseModel
from diffsight.necks import IMAFR, Merging
from diffsight.prompts import AbstractPrompt, Aggregated, LearnedSentences
from diffsight.tasks import Depth, Referring

LATENT_STD = {"nyu": 5.07543, "kitti": 4.6211, "refcoco": 4.7164}
"""Standard deviation of the latents of each data set; the authors divide the latents by it."""

_CLIP = {
    r"clip_model\.text_model\.": "prompts.tower.",
    r"clip_model\.transformer\.text_model\.": "prompts.tower.",
}
_POSITIONS = "the numbers 0 to 76, which some versions of transformers store"


def _refinement(prefix: str) -> dict[str, str]:
    """Return the rules of ``Layout.names`` for IMAFR.

    It has one layer, then three pairs of a downsampling and a mixing layer.
    """
    names = {
        rf"{prefix}aggregation\.layer1\.spatial_attention\.0\.": "refine.spatial.",
        rf"{prefix}aggregation\.layer1\.conv1\.": "refine.conv.",
        rf"{prefix}aggregation\.layer1\.group_norm\.": "refine.norm.",
    }
    for i in range(3):
        theirs, ours = rf"{prefix}aggregation\.layer{2 * i + 2}\.", f"refine.halve.{i}."
        names |= {
            theirs + r"spatial_attention\.0\.": ours + "spatial.",
            theirs + r"channel_attention\.1\.": ours + "channel.0.",
            theirs + r"channel_attention\.3\.": ours + "channel.2.",
            theirs + r"conv1\.": ours + "conv.",
            theirs + r"conv2\.": ours + "down.",
            theirs + r"group_norm\.": ours + "norm.",
            rf"{prefix}aggregation\.layer{2 * i + 3}\.conv1\.": f"refine.mix.{i}.",
        }
    return names


DEPTH = Layout(
    kind="evp-depth",
    unet=VPD_DEPTH.unet,
    vae=VPD_DEPTH.vae,
    names={
        **VPD_DEPTH.names,
        **_refinement(r"encoder\."),
        **{r"encoder\." + theirs: ours for theirs, ours in _CLIP.items()},
        r"decoder\.deconv_layers\.": "head.decoder.deconv.",
        r"decoder\.conv_layers\.": "head.decoder.conv.",
        r"decoder\.last_layer_depth\.": "head.decoder.output.",
        r"bottle_neck\.": "head.bottleneck.",
        r"seed_bin_regressor\._net\.": "head.seed.",
        r"seed_projector\._net\.": "head.seed_embedding.",
        r"projectors\.(\d)\._net\.": r"head.embeddings.\1.",
        r"attractors\.(\d)\._net\.": r"head.attractors.\1.",
        r"conditional_log_binomial\.mlp\.": "head.distribution.mlp.",
    },
    dropped=unused_prefixes(VPD_DEPTH.unet, VPD_DEPTH.vae)
    | {
        "conditional_log_binomial.log_binomial_transform.": "constants of the distribution",
        "encoder.clip_model.transformer.text_model.embeddings.position_ids": _POSITIONS,
    },
)
REFERRING = Layout(
    kind="evp-referring",
    unet=VPD_REFERRING.unet,
    vae=VPD_REFERRING.vae,
    names={**_refinement(""), **_CLIP, **VPD_REFERRING.names},
    dropped=unused_prefixes(VPD_REFERRING.unet, VPD_REFERRING.vae)
    | {"clip_model.text_model.embeddings.position_ids": _POSITIONS},
)


def convert_evp_depth(
    state: Mapping[str, Tensor],
    *,
    max_depth_m: float = 10.0,
    latent_std: float | None = None,
    encoder: str | None = None,
    partial: bool = False,
) -> tuple[DenseModel, KeyReport]:
    """Return EVP's depth model with the weights of a checkpoint, and a report on its keys.

    The prompt is an embedding of aggregated captions, or the model has a CLIP text encoder. The
    checkpoint decides which.

    Args:
        state: checkpoint with the original names, without ``module.``.
        max_depth_m: largest depth in metres of the training (10 for NYU, 80 for KITTI).
        latent_std: standard deviation by which the latents are divided. Default: 5.07543 for a
            largest depth of up to 10 m (NYU), else 4.6211 (KITTI).
        encoder: folder or hub id of CLIP ViT-L/14, whose tokenizer is used if the checkpoint has
            the text encoder; None: prompts must be given as token ids.
        partial: accept missing entries (they keep their random initialisation).

    Raises:
        InputError: if ``state`` is of another model, or lacks entries.
    """
    require(state, DEPTH)
    rows = state.get("encoder.class_embeddings")
    if rows is not None and (rows.ndim < 2 or rows.numel() != rows.shape[-2:].numel()):
        raise InputError(
            f"encoder.class_embeddings has shape {tuple(rows.shape)}, but a prompt is tokens x "
            "width: convert a checkpoint of the released code"
        )
    divisor = LATENT_STD["nyu" if max_depth_m <= 10 else "kitti"]
    if latent_std is not None:
        divisor = latent_std

    def build() -> DenseModel:
        prompts: AbstractPrompt = (
            LearnedSentences(tokenizer=encoder) if rows is None else Aggregated(rows.shape[-2])
        )
        method = bind(
            EVP,
            backbone=_backbone(divisor),
            prompts=prompts,
            refine=IMAFR,
            neck=Merging,
            head=MetricBins,
        )
        return DenseModel(task=Depth(max_depth_m=max_depth_m), method=method)

    if rows is not None:
        state = {**state, "encoder.class_embeddings": rows.reshape(rows.shape[-2:])}
    return convert(state, DEPTH, build, partial=partial)


def convert_evp_referring(
    state: Mapping[str, Tensor],
    *,
    latent_std: float = LATENT_STD["refcoco"],
    encoder: str | None = None,
    partial: bool = False,
) -> tuple[DenseModel, KeyReport]:
    """Return EVP's referring model with the weights of a checkpoint, and a report on its keys.

    Args:
        state: checkpoint with the original names, without ``module.``.
        latent_std: standard deviation by which the latents are divided.
        encoder: folder or hub id of CLIP ViT-L/14. Only its tokenizer is loaded from there, because
            ``state`` has the weights; None: prompts must be given as token ids.
        partial: accept missing entries (they keep their random initialisation).

    Raises:
        InputError: if ``state`` is of another model, or lacks entries.
    """
    require(state, REFERRING)
    tokens = count_tokens(state)

    def build() -> DenseModel:
        method = bind(
            EVP,
            backbone=_backbone(latent_std),
            prompts=LearnedSentences(tokens, tokenizer=encoder),
            refine=bind(IMAFR, init_std=None),
            head=ReferringDecoder,
        )
        return DenseModel(task=Referring(), method=method)

    return convert(state, REFERRING, build, partial=partial)


def _backbone(divisor: float) -> StableDiffusion:
    if not 0 < divisor < math.inf:
        raise InputError(f"latent_std is {divisor:g}: give a positive number")
    return StableDiffusion("sd15", latent_scale=1 / divisor, trainable=("unet", "vae"))
