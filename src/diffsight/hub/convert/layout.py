"""From the names of an original checkpoint to ours: rules for the heads, tables for the LDM."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffsight.backbones.ldm_keys import KeyReport, vae_value
from diffsight.backbones.sources import ldm_renamer
from diffsight.model import DenseModel
from diffsight.types import InputError

# what tells the authors' models apart, the more special first
SIGNS = {
    "decode_head.conv_seg.weight": "VPD segmentation",
    "seed_bin_regressor._net.0.weight": "EVP depth",
    "last_layer_depth.0.weight": "VPD depth",
    "clip_model.text_model.final_layer_norm.weight": "EVP referring segmentation",
    "classifier.conv1_4.weight": "VPD or EVP referring segmentation",
}


@dataclass(frozen=True)
class Layout:
    """How the authors named what their model holds.

    Attributes:
        title: of the model, for messages.
        sign: entries that only this model has.
        unet: prefix of the UNet's entries.
        vae: prefix of the autoencoder's.
        names: patterns of the other entries, matched at the beginning, and our names below
            ``method``.
        dropped: prefixes of entries that are not needed, and why.
    """

    title: str
    sign: Sequence[str]
    unet: str
    vae: str
    names: Mapping[str, str]
    dropped: Mapping[str, str]


def unneeded(unet: str, vae: str) -> dict[str, str]:
    """What every checkpoint of VPD holds and never runs."""
    return {
        vae + "post_quant_conv.": "belongs to the VAE's decoder, which VPD never runs",
        vae + "decoder.": "the VAE's decoder, which VPD never runs",
        unet + "out.": "the UNet's output head, which VPD never runs",
        "sd_model.": "constants of the noise schedule, which VPD never uses",
    }


def require(state: Mapping[str, Tensor], layout: Layout) -> None:
    """Refuse a checkpoint of another model.

    Raises:
        InputError: that names what it looks like.
    """
    if all(key in state for key in layout.sign):
        return
    found = next((name for key, name in SIGNS.items() if key in state), None)
    first = next(iter(state), "none")
    guess = f": it looks like {found}" if found else f" (its first entry is {first})"
    raise InputError(f"not a checkpoint of {layout.title}{guess}")


def convert(
    state: Mapping[str, Tensor], layout: Layout, build: Callable[[], DenseModel], *, partial: bool
) -> tuple[DenseModel, KeyReport]:
    """Our model with the checkpoint's values, and what became of every entry.

    Args:
        state: original names, without ``module.``.
        layout: what they mean.
        build: makes the model.
        partial: accept missing entries (they keep their random initialisation).

    Raises:
        InputError: if an entry has another shape, or entries are missing.
    """
    with torch.device("meta"):
        model = build()
    report, ours = _rename(state, model, layout)
    report.missing = sorted(set(model.state_dict()) - set(ours))
    if report.missing and not partial:
        raise InputError(
            f"{len(report.missing)} entries are missing, first {report.missing[0]}: the "
            "checkpoint is not whole; --partial goes on with random values for them"
        )
    if report.missing:
        model = build()
    model.load_state_dict(ours, assign=True, strict=not report.missing)
    return model.eval(), report


def _rename(
    state: Mapping[str, Tensor], model: DenseModel, layout: Layout
) -> tuple[KeyReport, dict[str, Tensor]]:
    unet = ldm_renamer(model.get_submodule("method.backbone.unet"), "unet")
    vae = ldm_renamer(model.get_submodule("method.backbone.vae"), "vae")
    wanted = model.state_dict()
    report, ours = KeyReport(), {}
    for key, value in state.items():
        reason = next((why for prefix, why in layout.dropped.items() if key.startswith(prefix)), "")
        if reason:
            report.dropped[key] = reason
            continue
        if key.startswith(layout.unet):
            target = _join("method.backbone.unet.", unet(key.removeprefix(layout.unet)))
        elif key.startswith(layout.vae):
            target = _join("method.backbone.vae.", vae(key.removeprefix(layout.vae)))
            value = vae_value(target or "", value)
        else:
            target = _join("method.", _renamed(key, layout.names))
        if target is None or target not in wanted:
            report.unused.append(key)
        elif value.shape != wanted[target].shape:
            raise InputError(
                f"{key} has shape {tuple(value.shape)}, {layout.title} on Stable Diffusion 1.5 "
                f"needs {tuple(wanted[target].shape)}"
            )
        else:
            report.used[key] = target
            ours[target] = value
    return report, ours


def _renamed(key: str, names: Mapping[str, str]) -> str | None:
    for pattern, ours in names.items():
        if found := re.match(pattern, key):
            return found.expand(ours) + key[found.end() :]
    return None


def _join(prefix: str, name: str | None) -> str | None:
    return None if name is None else prefix + name
