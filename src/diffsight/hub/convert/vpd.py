"""Original VPD checkpoints -> ours: names by table, Stable Diffusion's by the LDM tables."""

from collections.abc import Mapping, Sequence
from functools import partial as bind

import torch
from torch import Tensor

from diffsight.backbones.ldm_keys import KeyReport, vae_value
from diffsight.backbones.sources import ldm_renamer
from diffsight.backbones.stable_diffusion import StableDiffusion
from diffsight.datasets.nyu import NYU_SCENES
from diffsight.heads import DeconvHead
from diffsight.methods import VPD
from diffsight.model import DenseModel
from diffsight.necks import Merging
from diffsight.prompts import TextTable
from diffsight.tasks.depth import MetricDepth
from diffsight.types import InputError

_UNET = "encoder.unet.unet.diffusion_model."
_VAE = "encoder.encoder_vq."
_DEPTH = {
    "encoder.class_embeddings": "prompts.rows",
    "encoder.gamma": "prompts.adapter.gamma",
    "encoder.text_adapter.fc.": "prompts.adapter.mlp.",
    "encoder.layer1.": "neck.level0.",
    "encoder.layer2.0.": "neck.level1.",
    "encoder.out_layer.": "neck.mix.",
    "decoder.deconv_layers.": "head.deconv.",
    "decoder.conv_layers.": "head.conv.",
    "last_layer_depth.": "head.output.",
}
_UNNEEDED = {
    _VAE + "post_quant_conv.": "belongs to the VAE's decoder, which VPD never runs",
    _VAE + "decoder.": "the VAE's decoder, which VPD never runs",
    _UNET + "out.": "the UNet's output head, which VPD never runs",
}


def convert_vpd_depth(
    state: Mapping[str, Tensor],
    *,
    max_depth_m: float = 10.0,
    names: Sequence[str] | None = None,
    partial: bool = False,
) -> tuple[DenseModel, KeyReport]:
    """VPD's depth model from the state dict of an original ``best.ckpt`` / ``last.ckpt``.

    Args:
        state: original names, without ``module.``.
        max_depth_m: cap that the checkpoint was trained with (10 for NYU, 80 for KITTI).
        names: scene names of the rows of its text table; default: the 27 of NYU in the authors'
            order.
        partial: accept missing entries (they keep their random initialisation).

    Raises:
        InputError: if it is a checkpoint of something else, or entries are missing.
    """
    if "encoder.class_embeddings" not in state or "last_layer_depth.0.weight" not in state:
        raise InputError(f"not a checkpoint of VPD depth{_guess(state)}")
    rows, width = state["encoder.class_embeddings"].shape
    names = tuple(names or NYU_SCENES)
    if len(names) != rows:
        raise InputError(
            f"the checkpoint's text table has {rows} rows, but {len(names)} names are given: "
            f"name them with --names"
        )
    with torch.device("meta"):
        model = _build(names, width, max_depth_m)
    report, ours = _rename(state, model)
    report.missing = sorted(set(model.state_dict()) - set(ours))
    if report.missing and not partial:
        raise InputError(
            f"{len(report.missing)} entries are missing, first {report.missing[0]}: the "
            f"checkpoint is not "
            "whole; --partial goes on with random values for them"
        )
    if report.missing:
        model = _build(names, width, max_depth_m)
    model.load_state_dict(ours, assign=True, strict=not report.missing)
    return model.eval(), report


def _build(names: Sequence[str], width: int, max_depth_m: float) -> DenseModel:
    method = bind(
        VPD,
        backbone=StableDiffusion("sd15"),
        prompts=TextTable(names, dim=width),
        neck=Merging,
        head=bind(DeconvHead, max_value=max_depth_m),
    )
    return DenseModel(task=MetricDepth(max_depth_m=max_depth_m), method=method)


def _rename(state: Mapping[str, Tensor], model: DenseModel) -> tuple[KeyReport, dict[str, Tensor]]:
    unet = ldm_renamer(model.get_submodule("method.backbone.unet"), "unet")
    vae = ldm_renamer(model.get_submodule("method.backbone.vae"), "vae")
    wanted = model.state_dict()
    report, ours = KeyReport(), {}
    for key, value in state.items():
        reason = next((why for prefix, why in _UNNEEDED.items() if key.startswith(prefix)), None)
        if reason:
            report.dropped[key] = reason
            continue
        if key.startswith(_UNET):
            target = _join("backbone.unet.", unet(key.removeprefix(_UNET)))
        elif key.startswith(_VAE):
            target = _join("backbone.vae.", vae(key.removeprefix(_VAE)))
            value = vae_value(target or "", value)
        else:
            target = next(
                (new + key.removeprefix(old) for old, new in _DEPTH.items() if key.startswith(old)),
                None,
            )
        target = _join("method.", target)
        if target is None or target not in wanted:
            report.unused.append(key)
        elif value.shape != wanted[target].shape:
            raise InputError(
                f"{key} has shape {tuple(value.shape)}, VPD depth on Stable Diffusion 1.5 needs "
                f"{tuple(wanted[target].shape)}"
            )
        else:
            report.used[key] = target
            ours[target] = value
    return report, ours


def _join(prefix: str, name: str | None) -> str | None:
    return None if name is None else prefix + name


def _guess(state: Mapping[str, Tensor]) -> str:
    signs = {
        "decode_head.conv_seg.weight": "VPD segmentation",
        "classifier.conv1_4.weight": "VPD or EVP referring segmentation",
        "seed_bin_regressor._net.0.weight": "EVP depth",
    }
    found = next((name for key, name in signs.items() if key in state), None)
    return (
        f": it looks like {found}"
        if found
        else f" (its first entry is {next(iter(state), 'none')})"
    )
