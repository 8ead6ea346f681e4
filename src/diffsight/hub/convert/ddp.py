"""Convert DDP's original checkpoints for depth and segmentation, with their image encoders."""

import re
from collections.abc import Mapping, Sequence
from functools import partial as bind
from typing import Any

import torch
from torch import Tensor

from diffsight.backbones import VisionBackbone
from diffsight.backbones.ldm_keys import KeyReport
from diffsight.backbones.vision import IMAGENET_MEAN, IMAGENET_STD
from diffsight.diffusion import (
    ClassEmbedding,
    CosineNoise,
    Sampler,
    ScalarMap,
    UnclampedCosineNoise,
)
from diffsight.errors import InputError
from diffsight.heads.map_decoder import MapDecoder
from diffsight.hub.convert.layout import Layout, convert, read_classes, read_shape, require
from diffsight.label_maps import ADE20K_CLASSES
from diffsight.methods import DDP
from diffsight.model import DenseModel
from diffsight.necks import NormalisedFPN
from diffsight.tasks import Depth, Segmentation
from diffsight.weights import network_names

MIN_DEPTH_M = 1e-3
# prefixes of the encoder's entries after ``translate_entries``
TOWER, CONSTANT = "encoder:", "constant:"
WINDOWS = {CONSTANT: "a constant that follows from the size of the encoder's windows"}
# prefix of a decoder layer's entries; its group is the number of the layer
LAYER = r"decode_head\.encoder\.layers\.(\d+)\."


def layer_names(layer: str) -> dict[str, str]:
    """Return the rules of ``Layout.names`` for the layers of the decoder.

    Args:
        layer: regular expression for the prefix of a layer's entries; its group is the number of
            the layer.
    """
    return {
        layer + r"attentions\.0\.sampling_offsets\.": r"decoder.layers.\1.attention.offsets.",
        layer + r"attentions\.0\.attention_weights\.": r"decoder.layers.\1.attention.weights.",
        layer + r"attentions\.0\.value_proj\.": r"decoder.layers.\1.attention.value.",
        layer + r"attentions\.0\.output_proj\.": r"decoder.layers.\1.attention.output.",
        layer + r"norms\.0\.": r"decoder.layers.\1.first_norm.",
        layer + r"norms\.1\.": r"decoder.layers.\1.second_norm.",
        layer + r"ffns\.0\.layers\.0\.0\.": r"decoder.layers.\1.widen.",
        layer + r"ffns\.0\.layers\.1\.": r"decoder.layers.\1.narrow.",
        layer + r"time_mlp\.1\.": r"decoder.layers.\1.modulate.",
    }


NAMES = {
    TOWER: "backbone.network.",
    r"(transform|down)\.conv\.": "fuse.",
    r"embedding_table\.": "encoding.table.",
    r"time_mlp\.0\.weights$": "time.frequencies",
    r"time_mlp\.1\.": "time.first.",
    r"time_mlp\.3\.": "time.second.",
    r"neck\.0\.lateral_convs\.(\d+)\.conv\.": r"neck.lateral.\1.0.",
    r"neck\.0\.lateral_convs\.(\d+)\.gn\.": r"neck.lateral.\1.1.",
    r"neck\.0\.fpn_convs\.(\d+)\.conv\.": r"neck.output.\1.0.",
    r"neck\.0\.fpn_convs\.(\d+)\.gn\.": r"neck.output.\1.1.",
    r"neck\.1\.down\.conv\.": "neck.join.0.",
    r"neck\.1\.down\.gn\.": "neck.join.1.",
    **layer_names(LAYER),
    r"decode_head\.conv_(seg|depth)\.": "predict.",
    r"auxiliary_head\.convs\.0\.conv\.": "auxiliary.0.0.",
    r"auxiliary_head\.convs\.0\.bn\.": "auxiliary.0.1.",
    r"auxiliary_head\.conv_seg\.": "auxiliary.2.",
}
SEGMENTATION = Layout("ddp-segmentation", "", "", NAMES, WINDOWS)
DEPTH = Layout("ddp-depth", "", "", NAMES, WINDOWS)

_SWIN = {
    r"patch_embed\.projection\.": "embeddings.patch_embeddings.projection.",
    r"patch_embed\.norm\.": "embeddings.norm.",
    r"stages\.(\d+)\.blocks\.(\d+)\.norm1\.": r"encoder.layers.\1.blocks.\2.layernorm_before.",
    r"stages\.(\d+)\.blocks\.(\d+)\.norm2\.": r"encoder.layers.\1.blocks.\2.layernorm_after.",
    r"stages\.(\d+)\.blocks\.(\d+)\.attn\.w_msa\.proj\.": (
        r"encoder.layers.\1.blocks.\2.attention.output.dense."
    ),
    r"stages\.(\d+)\.blocks\.(\d+)\.attn\.w_msa\.": (
        r"encoder.layers.\1.blocks.\2.attention.self."
    ),
    r"stages\.(\d+)\.blocks\.(\d+)\.ffn\.layers\.0\.0\.": (
        r"encoder.layers.\1.blocks.\2.intermediate.dense."
    ),
    r"stages\.(\d+)\.blocks\.(\d+)\.ffn\.layers\.1\.": r"encoder.layers.\1.blocks.\2.output.dense.",
    r"stages\.(\d+)\.downsample\.": r"encoder.layers.\1.downsample.",
}
_CONVNEXT = {
    r"downsample_layers\.0\.0\.": "embeddings.patch_embeddings.",
    r"downsample_layers\.0\.1\.": "embeddings.layernorm.",
    r"downsample_layers\.(\d+)\.(\d+)\.": r"encoder.stages.\1.downsampling_layer.\2.",
    r"stages\.(\d+)\.(\d+)\.depthwise_conv\.": r"encoder.stages.\1.layers.\2.dwconv.",
    r"stages\.(\d+)\.(\d+)\.norm\.": r"encoder.stages.\1.layers.\2.layernorm.",
    r"stages\.(\d+)\.(\d+)\.pointwise_conv1\.": r"encoder.stages.\1.layers.\2.pwconv1.",
    r"stages\.(\d+)\.(\d+)\.pointwise_conv2\.": r"encoder.stages.\1.layers.\2.pwconv2.",
    r"stages\.(\d+)\.(\d+)\.gamma$": r"encoder.stages.\1.layers.\2.layer_scale_parameter",
}


def convert_ddp_segmentation(
    state: Mapping[str, Tensor],
    *,
    names: Sequence[str] | None = None,
    accumulate: bool | None = None,
    steps: int = 3,
    partial: bool = False,
) -> tuple[DenseModel, KeyReport]:
    """Return DDP's segmentation model with the weights of a checkpoint, and a report on its keys.

    Args:
        state: checkpoint of mmseg on Swin or ConvNeXt; original names, without ``module.``.
        names: names of its classes; default: those of Cityscapes for 19 classes (with the ids of
            ``labelIds``), else the 150 of ADE20K.
        accumulate: whether the probabilities of all steps are averaged. Default: only for 150
            classes (ADE20K), as in the released configurations.
        steps: number of the sampler's steps; 10 for the checkpoints of self-aligned denoising.
        partial: accept missing entries (they keep their random initialisation).

    Raises:
        InputError: if ``state`` is of another model, has another number of classes, or lacks
            entries.
    """
    require(state, SEGMENTATION)
    names, ids = read_classes(state, names)
    means = len(names) == len(ADE20K_CLASSES) if accumulate is None else accumulate
    _, width = read_shape(state, "embedding_table.weight", 2)
    method = bind(
        DDP,
        encoding=bind(ClassEmbedding, width=width),
        noise=CosineNoise(),
        sampler=Sampler(steps=steps, accumulate="mean" if means else "last"),
    )
    task = Segmentation(names, ids=ids, average="all")
    return _converted(state, SEGMENTATION, method, task, partial=partial)


def convert_ddp_depth(
    state: Mapping[str, Tensor], *, max_depth_m: float = 10.0, partial: bool = False
) -> tuple[DenseModel, KeyReport]:
    """Return DDP's depth model with the weights of a checkpoint, and a report on its keys.

    The decoder layers have a time input if the checkpoint has weights for it. Checkpoints of the
    released code have none.

    Args:
        state: checkpoint with the original names, without ``module.``.
        max_depth_m: largest depth in metres of the training (10 for NYU, 80 for KITTI).
        partial: accept missing entries (they keep their random initialisation).

    Raises:
        InputError: if ``state`` is of another model, or lacks entries.
    """
    require(state, DEPTH)
    method = bind(
        DDP,
        encoding=bind(ScalarMap, low=MIN_DEPTH_M, missing="released"),
        noise=UnclampedCosineNoise(),
        sampler=Sampler(),
        time_input="time",
        auxiliary=False,
    )
    return _converted(state, DEPTH, method, Depth(max_depth_m=max_depth_m), partial=partial)


def _converted(
    state: Mapping[str, Tensor], layout: Layout, method: Any, task: Any, *, partial: bool
) -> tuple[DenseModel, KeyReport]:
    """Return a DDP model whose sizes and weights are those of a checkpoint, and a report.

    Args:
        state: checkpoint with the original names.
        layout: names in the checkpoint.
        method: ``DDP`` without its backbone, neck and decoder.
        task: task of the model.
        partial: accept missing entries.
    """
    architecture = read_architecture(state)
    width = read_shape(state, "neck.1.down.conv.weight", 4)[0]
    layers = read_layers(state, "decode_head.")

    def build() -> DenseModel:
        parts = {
            "backbone": VisionBackbone(architecture=architecture),
            "neck": bind(NormalisedFPN, width=width),
            "decoder": MapDecoder(width=width, **layers),
        }
        return DenseModel(task=task, method=bind(method, **parts))

    entries, originals = translate_entries(state, architecture)
    return convert(entries, layout, build, partial=partial, originals=originals)


def read_layers(state: Mapping[str, Tensor], head: str) -> dict[str, Any]:
    """Return the arguments of ``MapDecoder`` that follow from the layers in a checkpoint.

    Args:
        state: checkpoint with the original names.
        head: prefix of the decoder's entries.

    Raises:
        InputError: if the first layer lacks an entry whose shape is needed.
    """
    first = f"{head}encoder.layers.0."
    hidden = read_shape(state, f"{first}ffns.0.layers.0.0.weight", 2)[0]
    pattern = re.escape(head) + r"encoder\.layers\.(\d+)\.(\w+)"
    matches = [match for key in state if (match := re.match(pattern, key))]
    has_time = any(match[2] == "time_mlp" for match in matches)
    return {
        "layers": 1 + max(int(match[1]) for match in matches),
        "hidden": hidden,
        "time_width": read_shape(state, f"{first}time_mlp.1.weight", 2)[1] if has_time else None,
    }


def translate_entries(
    state: Mapping[str, Tensor],
    architecture: Mapping[str, Any],
    prefix: str = "backbone.",
    stages: tuple[str, ...] | None = None,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return all entries of a checkpoint; those of the encoder get transformers' names.

    The new names of the encoder's entries begin with ``TOWER``, those of its constants with
    ``CONSTANT``. Entries that the encoder does not have keep their names.

    Args:
        state: checkpoint of mmsegmentation or of a library that is based on it.
        architecture: configuration of the encoder, as ``read_architecture`` returns it.
        prefix: prefix of the encoder's entries in ``state``.
        stages: stages of the encoder whose feature maps are used; default: all.

    Returns:
        Tensors by name, and the names in ``state`` of the entries that have new names.

    Raises:
        InputError: if an entry that must be split or reordered has a wrong shape.
    """
    is_swin = architecture["model_type"] == "swin"
    with torch.device("meta"):
        network = VisionBackbone(architecture=dict(architecture), stages=stages).network
    entries: dict[str, Tensor] = {}
    originals: dict[str, str] = {}
    theirs: dict[str, tuple[str, Tensor]] = {}
    for key, value in state.items():
        own = key.removeprefix(prefix) if key.startswith(prefix) else ""
        if own.endswith("relative_position_index"):
            entries[CONSTANT + key], originals[CONSTANT + key] = value, key
            continue
        parts = _encoder_entries(own, value, key, is_swin=is_swin)
        theirs |= {name: (key, part) for name, part in parts.items()}
        if not parts:
            entries[key] = value
    names = network_names(type(network), network.config, list(theirs))
    for name, (key, value) in theirs.items():
        target = TOWER + names[name] if name in names else key
        entries[target], originals[target] = value, key
    return entries, originals


def _encoder_entries(own: str, value: Tensor, key: str, *, is_swin: bool) -> dict[str, Tensor]:
    """Return an entry of an encoder under its names in transformers' hub checkpoints.

    Args:
        own: name of the entry, without the encoder's prefix.
        value: value of the entry.
        key: name of the entry in the checkpoint, for messages.
        is_swin: whether the encoder is Swin; else it is ConvNeXt.

    Returns:
        Tensors by name; none if no rule matches the entry.

    Raises:
        InputError: if an entry that must be split or reordered has a wrong shape.
    """
    rules, prefix = (_SWIN, "swin.") if is_swin else (_CONVNEXT, "")
    if match := re.match(r"norm(\d)\.", own):
        norms = [f"hidden_states_norms.stage{int(match[1]) + 1}."]
        if is_swin and match[1] == "3":  # also the norm of the classifier, which never runs
            norms.append("swin.layernorm.")
        return {norm + own[match.end() :]: value for norm in norms}
    matches = ((m, ours) for pattern, ours in rules.items() if (m := re.match(pattern, own)))
    match, ours = next(matches, (None, ""))
    if match is None:
        return {}
    name = prefix + match.expand(ours) + own[match.end() :]
    if ".qkv." in name:
        _require_multiple(key, value, 0, 3)
        parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
        return {name.replace("qkv", part): weight.clone() for part, weight in parts}
    if ".downsample." in name:
        _require_multiple(key, value, -1, 4)
        return {name: reorder_patch_merging(value)}
    return {name: value}


def _require_multiple(key: str, value: Tensor, axis: int, number: int) -> None:
    """Refuse an entry whose size along an axis is not a multiple of a number."""
    if not (value.ndim and value.shape[axis] and value.shape[axis] % number == 0):
        raise InputError(
            f"{key} has shape {tuple(value.shape)}, which cannot be divided into {number} parts: "
            "convert a checkpoint of the released code"
        )


def reorder_patch_merging(weight: Tensor) -> Tensor:
    """Return mmseg's weights of a patch merging in transformers' order of the inputs.

    mmseg flattens a patch of 2 x 2 pixels channel by channel, and within a channel row by row.
    transformers flattens it pixel by pixel, column by column.

    Args:
        weight: the last axis runs over the four pixels and the channels of a patch.
    """
    parts = weight.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]]
    return parts.transpose(-1, -2).flatten(-2).contiguous()


def read_architecture(state: Mapping[str, Tensor], prefix: str = "backbone.") -> dict[str, Any]:
    """Return transformers' configuration of the encoder in a checkpoint, from its shapes.

    Args:
        state: checkpoint with the original names.
        prefix: prefix of the encoder's entries.

    Raises:
        InputError: if the encoder is neither Swin nor ConvNeXt, or lacks an entry whose shape is
            needed.
    """
    normalised = {"image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD)}
    patches = f"{prefix}patch_embed.projection.weight"
    if patches in state:
        table = prefix + "stages.{}.blocks.0.attn.w_msa.relative_position_bias_table"
        shapes = [read_shape(state, table.format(stage), 2) for stage in range(4)]
        return {
            "model_type": "swin",
            "embed_dim": read_shape(state, patches, 4)[0],
            "depths": _depths(state, re.escape(prefix) + r"stages\.(\d+)\.blocks\.(\d+)\."),
            "num_heads": [heads for _, heads in shapes],
            "window_size": (round(shapes[0][0] ** 0.5) + 1) // 2,
            **normalised,
        }
    if f"{prefix}downsample_layers.0.0.weight" in state:
        conv = prefix + "stages.{}.0.depthwise_conv.weight"
        return {
            "model_type": "convnext",
            "hidden_sizes": [read_shape(state, conv.format(stage), 4)[0] for stage in range(4)],
            "depths": _depths(state, re.escape(prefix) + r"stages\.(\d+)\.(\d+)\."),
            **normalised,
        }
    raise InputError("the checkpoint's encoder is neither Swin nor ConvNeXt: convert one of these")


def _depths(state: Mapping[str, Tensor], pattern: str) -> list[int]:
    """Return the number of blocks of each stage, all of which have a block.

    The groups of the pattern are stage and block.
    """
    blocks = [tuple(map(int, match.groups())) for k in state if (match := re.match(pattern, k))]
    return [1 + max(block for stage, block in blocks if stage == s) for s in range(4)]
