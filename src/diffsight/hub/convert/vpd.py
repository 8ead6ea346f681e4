"""Convert VPD's original checkpoints."""

from collections.abc import Mapping, Sequence
from functools import partial as bind

from torch import Tensor

from diffsight.backbones.ldm_keys import KeyReport
from diffsight.backbones.stable_diffusion import StableDiffusion
from diffsight.errors import InputError
from diffsight.heads import DeconvHead, ReferringDecoder, SemanticFPN
from diffsight.hub.convert.layout import Layout, class_ids, convert, require, unused_prefixes
from diffsight.label_maps import ADE20K_CLASSES, NYU_SCENES
from diffsight.methods import VPD
from diffsight.model import DenseModel
from diffsight.necks import FPN, Merging
from diffsight.prompts import ClassTokens, Sentences, TextTable
from diffsight.tasks import Depth, Referring, Segmentation

MAX_TOKENS = 77  # longest sentence of CLIP's text encoder
_LDM = "unet.unet.diffusion_model."
DEPTH = Layout(
    kind="vpd-depth",
    unet="encoder." + _LDM,
    vae="encoder.encoder_vq.",
    names={
        r"encoder\.class_embeddings$": "prompts.rows",
        r"encoder\.gamma$": "prompts.adapter.gamma",
        r"encoder\.text_adapter\.fc\.": "prompts.adapter.mlp.",
        r"encoder\.layer1\.": "neck.level0.",
        r"encoder\.layer2\.0\.": "neck.level1.",
        r"encoder\.out_layer\.": "neck.mix.",
        r"decoder\.deconv_layers\.": "head.deconv.",
        r"decoder\.conv_layers\.": "head.conv.",
        r"last_layer_depth\.": "head.output.",
    },
    dropped=unused_prefixes("encoder." + _LDM, "encoder.encoder_vq."),
)
SEGMENTATION = Layout(
    kind="vpd-segmentation",
    unet=_LDM,
    vae="encoder_vq.",
    names={
        r"class_embeddings$": "prompts.rows",
        r"gamma$": "prompts.adapter.gamma",
        r"text_adapter\.fc\.": "prompts.adapter.mlp.",
        r"neck\.lateral_convs\.(\d+)\.conv\.": r"neck.lateral.\1.",
        r"neck\.fpn_convs\.(\d+)\.conv\.": r"neck.output.\1.",
        r"decode_head\.scale_heads\.(\d+)\.(\d+)\.conv\.": r"head.scales.\1.\2.0.",
        r"decode_head\.scale_heads\.(\d+)\.(\d+)\.bn\.": r"head.scales.\1.\2.1.",
        r"decode_head\.conv_seg\.": "head.output.",
    },
    dropped=unused_prefixes(_LDM, "encoder_vq."),
)
REFERRING = Layout(
    kind="vpd-referring",
    unet=_LDM,
    vae="encoder_vq.",
    names={
        r"gamma$": "prompts.adapter.gamma",
        r"text_adapter\.fc\.": "prompts.adapter.mlp.",
        r"classifier\.conv1_1\.": "head.output.",
    }
    | {
        rf"classifier\.{kind}{layer}_{4 - stage}\.": f"head.stages.{stage}.{3 * layer - 3 + i}."
        for stage in range(3)
        for layer in (1, 2)
        for i, kind in enumerate(("conv", "bn"))
    },
    dropped=unused_prefixes(_LDM, "encoder_vq."),
)


def convert_vpd_depth(
    state: Mapping[str, Tensor],
    *,
    max_depth_m: float = 10.0,
    names: Sequence[str] | None = None,
    partial: bool = False,
) -> tuple[DenseModel, KeyReport]:
    """Return VPD's depth model with the weights of a checkpoint, and a report on its keys.

    Args:
        state: the authors' ``best.ckpt`` or ``last.ckpt``; original names, without ``module.``.
        max_depth_m: largest depth in metres of the training (10 for NYU, 80 for KITTI).
        names: scene type of each row of the text table; default: the 27 of NYU in the authors'
            order.
        partial: accept missing entries (they keep their random initialisation).

    Raises:
        InputError: if ``state`` is of another model, has another number of scene types, or lacks
            entries.
    """
    names, width = _rows(state, DEPTH, "encoder.class_embeddings", names or NYU_SCENES)

    def build() -> DenseModel:
        method = bind(
            VPD,
            backbone=StableDiffusion("sd15"),
            prompts=TextTable(names, dim=width),
            neck=Merging,
            head=DeconvHead,
        )
        return DenseModel(task=Depth(max_depth_m=max_depth_m), method=method)

    return convert(state, DEPTH, build, partial=partial)


def convert_vpd_segmentation(
    state: Mapping[str, Tensor], *, names: Sequence[str] | None = None, partial: bool = False
) -> tuple[DenseModel, KeyReport]:
    """Return VPD's segmentation model with the weights of a checkpoint, and a report on its keys.

    The model has A32 attention maps, an FPN neck and a Semantic FPN head.

    Args:
        state: checkpoint of mmseg; original names, without ``module.``.
        names: names of its classes; default: the 150 of ADE20K.
        partial: accept missing entries (they keep their random initialisation).

    Raises:
        InputError: if ``state`` is of another model, has another number of classes, or lacks
            entries.
    """
    names, width = _rows(state, SEGMENTATION, "class_embeddings", names or ADE20K_CLASSES)

    def build() -> DenseModel:
        method = bind(
            VPD,
            backbone=StableDiffusion("sd15"),
            prompts=ClassTokens(names, dim=width),
            neck=FPN,
            head=SemanticFPN,
            attention_maps="A32",
        )
        return DenseModel(task=Segmentation(names, ids=class_ids(names)), method=method)

    return convert(state, SEGMENTATION, build, partial=partial)


def convert_vpd_referring(
    state: Mapping[str, Tensor], *, partial: bool = False, encoder: str | None = None
) -> tuple[DenseModel, KeyReport]:
    """Return VPD's referring model with the weights of a checkpoint, and a report on its keys.

    The model has A32 attention maps and LAVT's decoder. The size of the decoder decides the number
    of tokens of a sentence (40 or 77).

    Args:
        state: checkpoint with the original names, without ``module.``.
        partial: accept missing entries (they keep their random initialisation).
        encoder: folder or hub id of CLIP ViT-L/14, whose text encoder is not in the checkpoint;
            None: prompts must be given as text features.

    Raises:
        InputError: if ``state`` is of another model, or lacks entries.
    """
    require(state, REFERRING)
    tokens = count_tokens(state)

    def build() -> DenseModel:
        method = bind(
            VPD,
            backbone=StableDiffusion("sd15"),
            prompts=Sentences(tokens, encoder=encoder),
            head=ReferringDecoder,
            attention_maps="A32",
        )
        return DenseModel(task=Referring(), method=method)

    return convert(state, REFERRING, build, partial=partial)


def count_tokens(state: Mapping[str, Tensor]) -> int:
    """Return the number of tokens of a sentence, from the size of the referring decoder.

    Args:
        state: checkpoint of VPD's or EVP's referring model.

    Raises:
        InputError: if the decoder has another shape.
    """
    name = "classifier.conv1_4.weight"
    shape = tuple(state[name].shape)
    if len(shape) != 4 or not 0 < shape[1] - 2 * 1280 <= MAX_TOKENS:
        raise InputError(
            f"{name} has shape {shape}, but it takes 2560 channels and one per token (1 to "
            f"{MAX_TOKENS}): convert a checkpoint of the released code"
        )
    return shape[1] - 2 * 1280


def _rows(
    state: Mapping[str, Tensor], layout: Layout, table: str, names: Sequence[str]
) -> tuple[tuple[str, ...], int]:
    """Return the row names and the width of a checkpoint's text table, after checking both.

    Args:
        state: checkpoint with the original names.
        layout: names in the checkpoint.
        table: name of the text table.
        names: expected names of the rows.

    Raises:
        InputError: if ``state`` is of another model, or its table has another number of rows.
    """
    require(state, layout)
    if state[table].ndim != 2:
        raise InputError(
            f"{table} has shape {tuple(state[table].shape)}, but a text table is rows x width: "
            "convert a checkpoint of the released code"
        )
    rows, width = state[table].shape
    if len(names) != rows:
        raise InputError(
            f"the checkpoint's text table has {rows} rows, but {len(names)} names are given: "
            "name them with --names"
        )
    return tuple(names), width
