"""Converters of the original checkpoints of Meta Prompts."""

from collections.abc import Mapping, Sequence
from functools import partial as bind

import torch
from torch import Tensor

from diffsight.backbones.ldm_keys import KeyReport
from diffsight.backbones.stable_diffusion import StableDiffusion
from diffsight.errors import InputError
from diffsight.heads import DeconvHead, UPerHead
from diffsight.hub.convert.layout import Layout, convert, require
from diffsight.label_maps import ADE20K_CLASSES
from diffsight.methods import MetaPrompts
from diffsight.model import DenseModel
from diffsight.necks import Fused, PerLevel
from diffsight.prompts import LearnedTokens
from diffsight.tasks import Depth, Segmentation

MOST_PASSES = 9
_LDM = "unet.unet.diffusion_model."
_COPIES = "a copy of the UNet's output head, which every pass shares"


def _dropped(prefix: str) -> dict[str, str]:
    vae, unet = f"{prefix}encoder_vq.", prefix + _LDM
    copies = {f"{prefix}cross_unet_conv{i}.": _COPIES for i in range(2, MOST_PASSES + 1)}
    return copies | {
        vae + "post_quant_conv.": "belongs to the VAE's decoder, which Meta Prompts never runs",
        vae + "decoder.": "the VAE's decoder, which Meta Prompts never runs",
        unet + "time_embed.": "embeds timesteps, in whose place Meta Prompts learns embeddings",
        "sd_model.": "constants of the noise schedule, which Meta Prompts never uses",
    }


def _levels() -> dict[str, str]:
    """Return the names of the depth model's levels of 1 to 3 doublings."""
    names = {}
    for level in (1, 2, 3):
        theirs, ours = rf"encoder\.layer{level + 1}\.", f"rearrange.levels.{level}."
        names[theirs + r"deconv_layers\."] = ours
        for place in (0, 1):
            names[theirs + rf"conv_layers\.{place}\."] = f"{ours}{3 * level + place}."
    return names


def _per_pass() -> dict[str, str]:
    """Return the names of the depth model's prompts, adapters and embeddings of each pass."""
    names = {}
    for i in range(MOST_PASSES):
        names[rf"encoder\.meta_prompts{i + 1}$"] = f"prompts.{i}.rows"
        names[rf"encoder\.text_adapter{i + 1}\.fc\."] = f"prompts.{i}.adapter."
        names[rf"encoder\.t{i + 1}$"] = f"times.{i}"
    return names


DEPTH = Layout(
    kind="meta-prompts-depth",
    unet="encoder." + _LDM,
    vae="encoder.encoder_vq.",
    names=_per_pass()
    | _levels()
    | {
        r"encoder\.layer1\.": "rearrange.levels.0.",
        r"encoder\.out_layer\.": "rearrange.mix.",
        r"decoder\.deconv_layers\.": "head.deconv.",
        r"decoder\.conv_layers\.": "head.conv.",
        r"last_layer_depth\.": "head.output.",
    },
    dropped=_dropped("encoder."),
)
SEGMENTATION = Layout(
    kind="meta-prompts-segmentation",
    unet=_LDM,
    vae="encoder_vq.",
    names={
        r"meta_prompts$": "prompts.0.rows",
        **{rf"t{i + 1}$": f"times.{i}" for i in range(MOST_PASSES)},
        **{rf"upconv{i + 1}\.": f"rearrange.levels.{i}." for i in range(4)},
        r"decode_head\.conv_seg\.": "head.output.",
        r"auxiliary_head\.conv_seg\.": "head.auxiliary.2.",
    }
    | {
        theirs + rf"{part}\.": f"{ours}{place}."
        for theirs, ours in {
            r"decode_head\.psp_modules\.(\d+)\.1\.": r"head.pooled.\1.",
            r"decode_head\.bottleneck\.": "head.context.",
            r"decode_head\.lateral_convs\.(\d+)\.": r"head.lateral.\1.",
            r"decode_head\.fpn_convs\.(\d+)\.": r"head.smooth.\1.",
            r"decode_head\.fpn_bottleneck\.": "head.join.",
            r"auxiliary_head\.convs\.0\.": "head.auxiliary.0.",
        }.items()
        for place, part in enumerate(("conv", "bn"))
    },
    dropped=_dropped(""),
)


def convert_meta_prompts_depth(
    state: Mapping[str, Tensor],
    *,
    max_depth_m: float = 10.0,
    enlarge_by: int | None = None,
    partial: bool = False,
) -> tuple[DenseModel, KeyReport]:
    """Return the depth model of Meta Prompts and the key report.

    Args:
        state: original names, without ``module.``; the number of passes is read off them.
        max_depth_m: cap that the checkpoint was trained with (10 for NYU, 80 for KITTI).
        enlarge_by: as of ``MetaPrompts``; default: 1 for a cap of 10 m, else 2, as released for NYU
            and KITTI.
        partial: accept missing entries (they keep their random initialisation).

    Raises:
        InputError: if it is a checkpoint of something else, or entries are missing.
    """
    passes = _passes(state, DEPTH, "encoder.")
    count, dim = _table(state, "encoder.meta_prompts1")
    blocks = (1 if max_depth_m <= 10 else 2) if enlarge_by is None else enlarge_by

    def build() -> DenseModel:
        method = bind(
            MetaPrompts,
            backbone=_backbone(passes),
            prompts=[LearnedTokens(count, dim=dim, adapter=True) for _ in range(passes)],
            rearrange=Fused,
            head=DeconvHead,
            passes=passes,
            enlarge_by=blocks,
        )
        return DenseModel(task=Depth(max_depth_m=max_depth_m), method=method)

    return convert(state, _layout(DEPTH, passes), build, partial=partial)


def convert_meta_prompts_segmentation(
    state: Mapping[str, Tensor], *, names: Sequence[str] | None = None, partial: bool = False
) -> tuple[DenseModel, KeyReport]:
    """Return the segmentation model of Meta Prompts (UPerNet) and the key report.

    Args:
        state: of mmseg's checkpoint; original names, without ``module.``; the number of passes is
            read off them.
        names: of its classes; default: the 150 of ADE20K.
        partial: accept missing entries (they keep their random initialisation).

    Raises:
        InputError: if it is a checkpoint of something else, has another number of classes, or
            entries are missing.
    """
    passes = _passes(state, SEGMENTATION, "")
    count, dim = _table(state, "meta_prompts")
    classes = len(state["decode_head.conv_seg.weight"])
    names = tuple(names or ADE20K_CLASSES)
    if len(names) != classes:
        raise InputError(
            f"the checkpoint has {classes} classes, but {len(names)} names are given: name them "
            "with --names"
        )

    def build() -> DenseModel:
        method = bind(
            MetaPrompts,
            backbone=_backbone(passes),
            prompts=[LearnedTokens(count, dim=dim)],
            rearrange=PerLevel,
            head=UPerHead,
            passes=passes,
        )
        task = Segmentation(names, lovasz_weight=1.0, average="all")
        return DenseModel(task=task, method=method)

    return convert(state, _layout(SEGMENTATION, passes), build, partial=partial)


def _backbone(passes: int) -> StableDiffusion:
    return StableDiffusion("sd15", conv_out=passes > 1, time_embedding=False, resize_skips=True)


def _layout(layout: Layout, passes: int) -> Layout:
    """Return the layout; of one pass, the UNet's output head is not needed."""
    if passes > 1:
        return layout
    unused = {layout.unet + "out.": "the UNet's output head, which a single pass never runs"}
    return Layout(layout.kind, layout.unet, layout.vae, layout.names, {**layout.dropped, **unused})


def _passes(state: Mapping[str, Tensor], layout: Layout, prefix: str) -> int:
    """Return the number of passes of a checkpoint.

    Raises:
        InputError: if it is of another model, or the copies of the UNet's output head differ.
    """
    require(state, layout)
    passes = 0
    while f"{prefix}t{passes + 1}" in state and passes < MOST_PASSES:
        passes += 1
    for key, value in state.items():
        if key.startswith(f"{prefix}cross_unet_conv"):
            whole = state.get(f"{layout.unet}out.{key.split('.', 1 + prefix.count('.'))[-1]}")
            if whole is not None and not value.is_meta and not torch.equal(whole, value):
                raise InputError(
                    f"{key} differs from the UNet's output head, whose copy it is: the checkpoint "
                    "is not one of the released code"
                )
    return passes


def _table(state: Mapping[str, Tensor], key: str) -> tuple[int, int]:
    """Return number and width of the prompts.

    Raises:
        InputError: if the entry is no table.
    """
    if key not in state or state[key].ndim != 2:
        raise InputError(f"{key}: the checkpoint has no table of prompts of that name")
    count, dim = state[key].shape
    return count, dim
