"""Convert Meta Prompts' original checkpoints."""

import re
from collections.abc import Mapping, Sequence
from functools import partial as bind

import torch
from torch import Tensor

from diffsight.backbones.ldm_keys import KeyReport
from diffsight.backbones.stable_diffusion import StableDiffusion
from diffsight.errors import InputError
from diffsight.heads import DeconvHead, UPerHead
from diffsight.hub.convert.layout import Layout, convert, read_classes, require
from diffsight.methods import MetaPrompts
from diffsight.model import DenseModel
from diffsight.necks import Fused, PerLevel
from diffsight.prompts import LearnedTokens
from diffsight.tasks import Depth, Segmentation

MAX_PASSES = 9  # passes of the UNet for which there are rules
_LDM = "unet.unet.diffusion_model."
_COPIES = "a copy of the UNet's output head, which all passes share"


def _dropped_prefixes(prefix: str) -> dict[str, str]:
    """Return ``Layout.dropped``; ``prefix`` is that of UNet and autoencoder."""
    vae, unet = f"{prefix}encoder_vq.", prefix + _LDM
    copies = {f"{prefix}cross_unet_conv{i}.": _COPIES for i in range(2, MAX_PASSES + 1)}
    return copies | {
        vae + "post_quant_conv.": "belongs to the VAE's decoder, which Meta Prompts never runs",
        vae + "decoder.": "the VAE's decoder, which Meta Prompts never runs",
        unet + "time_embed.": "embeds timesteps; Meta Prompts learns an embedding per pass instead",
        "sd_model.": "constants of the noise schedule, which Meta Prompts never uses",
    }


def _level_names() -> dict[str, str]:
    """Return the rules of ``Layout.names`` for the depth model's levels 1 to 3.

    Level 1 is enlarged once, level 3 three times.
    """
    names = {}
    for level in (1, 2, 3):
        theirs, ours = rf"encoder\.layer{level + 1}\.", f"rearrange.levels.{level}."
        names[theirs + r"deconv_layers\."] = ours
        for i in (0, 1):
            names[theirs + rf"conv_layers\.{i}\."] = f"{ours}{3 * level + i}."
    return names


def _pass_names() -> dict[str, str]:
    """Return the rules of ``Layout.names`` for the depth model's parts that each pass has.

    These are prompts, adapters and time embeddings.
    """
    names = {}
    for i in range(MAX_PASSES):
        names[rf"encoder\.meta_prompts{i + 1}$"] = f"prompts.{i}.rows"
        names[rf"encoder\.text_adapter{i + 1}\.fc\."] = f"prompts.{i}.adapter."
        names[rf"encoder\.t{i + 1}$"] = f"times.{i}"
    return names


DEPTH = Layout(
    kind="meta-prompts-depth",
    unet="encoder." + _LDM,
    vae="encoder.encoder_vq.",
    names=_pass_names()
    | _level_names()
    | {
        r"encoder\.layer1\.": "rearrange.levels.0.",
        r"encoder\.out_layer\.": "rearrange.mix.",
        r"decoder\.deconv_layers\.": "head.deconv.",
        r"decoder\.conv_layers\.": "head.conv.",
        r"last_layer_depth\.": "head.output.",
    },
    dropped=_dropped_prefixes("encoder."),
)
SEGMENTATION = Layout(
    kind="meta-prompts-segmentation",
    unet=_LDM,
    vae="encoder_vq.",
    names={
        r"meta_prompts$": "prompts.0.rows",
        **{rf"t{i + 1}$": f"times.{i}" for i in range(MAX_PASSES)},
        **{rf"upconv{i + 1}\.": f"rearrange.levels.{i}." for i in range(4)},
        r"decode_head\.conv_seg\.": "head.output.",
        r"auxiliary_head\.conv_seg\.": "head.auxiliary.2.",
    }
    | {
        theirs + rf"{part}\.": f"{ours}{i}."
        for theirs, ours in {
            r"decode_head\.psp_modules\.(\d+)\.1\.": r"head.pooled.\1.",
            r"decode_head\.bottleneck\.": "head.context.",
            r"decode_head\.lateral_convs\.(\d+)\.": r"head.lateral.\1.",
            r"decode_head\.fpn_convs\.(\d+)\.": r"head.smooth.\1.",
            r"decode_head\.fpn_bottleneck\.": "head.join.",
            r"auxiliary_head\.convs\.0\.": "head.auxiliary.0.",
        }.items()
        for i, part in enumerate(("conv", "bn"))
    },
    dropped=_dropped_prefixes(""),
)


def convert_meta_prompts_depth(
    state: Mapping[str, Tensor],
    *,
    max_depth_m: float = 10.0,
    enlarge_by: int | None = None,
    partial: bool = False,
) -> tuple[DenseModel, KeyReport]:
    """Return Meta Prompts' depth model with the weights of a checkpoint, and a report on its keys.

    The checkpoint decides the number of passes.

    Args:
        state: checkpoint with the original names, without ``module.``.
        max_depth_m: largest depth in metres of the training (10 for NYU, 80 for KITTI).
        enlarge_by: argument of ``MetaPrompts``. Default: 1 for a largest depth of up to 10 m, else
            2, as released for NYU and KITTI.
        partial: accept missing entries (they keep their random initialisation).

    Raises:
        InputError: if ``state`` is of another model, or lacks entries.
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
    """Return Meta Prompts' segmentation model with a checkpoint's weights, and a report on keys.

    The head is UPerNet. The checkpoint decides the number of passes.

    Args:
        state: checkpoint of mmseg; original names, without ``module.``.
        names: names of its classes; default: those of Cityscapes for 19 classes (with the ids of
            ``labelIds``), else the 150 of ADE20K.
        partial: accept missing entries (they keep their random initialisation).

    Raises:
        InputError: if ``state`` is of another model, has another number of classes, or lacks
            entries.
    """
    passes = _passes(state, SEGMENTATION, "")
    count, dim = _table(state, "meta_prompts")
    names, ids = read_classes(state, names)

    def build() -> DenseModel:
        method = bind(
            MetaPrompts,
            backbone=_backbone(passes),
            prompts=[LearnedTokens(count, dim=dim)],
            rearrange=PerLevel,
            head=UPerHead,
            passes=passes,
        )
        task = Segmentation(names, ids=ids, lovasz_weight=1.0, average="all")
        return DenseModel(task=task, method=method)

    return convert(state, _layout(SEGMENTATION, passes), build, partial=partial)


def _backbone(passes: int) -> StableDiffusion:
    return StableDiffusion("sd15", conv_out=passes > 1, time_embedding=False, resize_skips=True)


def _layout(layout: Layout, passes: int) -> Layout:
    """Return the layout for a number of passes; one pass does not need the UNet's output head."""
    if passes > 1:
        return layout
    unused = {layout.unet + "out.": "the UNet's output head, which a single pass never runs"}
    return Layout(layout.kind, layout.unet, layout.vae, layout.names, {**layout.dropped, **unused})


def _passes(state: Mapping[str, Tensor], layout: Layout, prefix: str) -> int:
    """Return the number of passes of the UNet in a checkpoint.

    Args:
        state: checkpoint with the original names.
        layout: names in the checkpoint.
        prefix: prefix of the entries that each pass has.

    Raises:
        InputError: if ``state`` is of another model, its parts have different numbers of passes, or
            the copies of the UNet's output head differ.
    """
    require(state, layout)
    passes = _last_number(state, prefix + r"t(\d+)$", default=0)
    others = {"copies of the UNet's output head": r"cross_unet_conv(\d+)\."}
    if layout is DEPTH:
        others |= {"prompts": r"meta_prompts(\d+)$", "adapters": r"text_adapter(\d+)\."}
    for part, name in others.items():
        # the first pass has no copy; every further pass has one
        count = _last_number(state, prefix + name, default=1)
        if count != passes:
            raise InputError(
                f"{layout.title}: the checkpoint has time embeddings for {_count(passes)}, but "
                f"{part} for {_count(count)}: convert a complete checkpoint"
            )
    if passes > MAX_PASSES:
        raise InputError(f"the checkpoint has {passes} passes: at most {MAX_PASSES} can be read")
    for key, value in state.items():
        if key.startswith(f"{prefix}cross_unet_conv"):
            original = state.get(f"{layout.unet}out.{key.split('.', 1 + prefix.count('.'))[-1]}")
            if original is not None and not value.is_meta and not torch.equal(original, value):
                raise InputError(
                    f"{key} should be a copy of the UNet's output head, but differs from it: "
                    "convert a checkpoint of the released code"
                )
    return passes


def _last_number(state: Mapping[str, Tensor], pattern: str, *, default: int) -> int:
    """Return the largest number that the group of a pattern matches in the names.

    Args:
        state: checkpoint.
        pattern: regular expression of the beginning of a name.
        default: result if no name matches.
    """
    return max((int(m[1]) for key in state if (m := re.match(pattern, key))), default=default)


def _count(passes: int) -> str:
    return "1 pass" if passes == 1 else f"{passes} passes"


def _table(state: Mapping[str, Tensor], key: str) -> tuple[int, int]:
    """Return number and width of the learned prompts.

    Raises:
        InputError: if the entry does not have two axes.
    """
    if state[key].ndim != 2:
        shape = tuple(state[key].shape)
        raise InputError(
            f"{key} has shape {shape}, but a table of prompts is prompts x width: convert a "
            "checkpoint of the released code"
        )
    count, dim = state[key].shape
    return count, dim
