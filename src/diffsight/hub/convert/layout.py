"""Rules that translate the names of an original checkpoint into ours."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffsight.backbones.ldm_keys import KeyReport, vae_value
from diffsight.backbones.sources import Part, ldm_renamer
from diffsight.errors import InputError
from diffsight.model import DenseModel
from diffsight.weights import require_finite


@dataclass(frozen=True)
class Kind:
    """One of the authors' models.

    Attributes:
        title: for messages.
        signs: entries that only it has, or prefixes of entries, which end with a dot.
    """

    title: str
    signs: Sequence[str]

    def missing_signs(self, state: Mapping[str, Tensor]) -> list[str]:
        """Return the signs that a checkpoint does not have."""
        return [
            sign
            for sign in self.signs
            if sign not in state
            and not (sign.endswith(".") and any(key.startswith(sign) for key in state))
        ]


KINDS: Mapping[str, Kind] = {
    "vpd-segmentation": Kind(
        "VPD segmentation", ("class_embeddings", "decode_head.conv_seg.weight")
    ),
    "meta-prompts-depth": Kind(
        "Meta Prompts depth", ("encoder.meta_prompts1", "last_layer_depth.0.weight")
    ),
    "meta-prompts-segmentation": Kind(
        "Meta Prompts segmentation", ("meta_prompts", "decode_head.conv_seg.weight")
    ),
    "ddp-segmentation": Kind(
        "DDP segmentation", ("transform.conv.weight", "decode_head.conv_seg.weight")
    ),
    "ddp-bev": Kind("DDP map", ("encoders.camera.vtransform.depthnet.weight", "heads.map.")),
    "ddp-depth": Kind("DDP depth", ("down.conv.weight", "decode_head.conv_depth.weight")),
    "evp-depth": Kind("EVP depth", ("seed_bin_regressor._net.0.weight", "encoder.aggregation.")),
    "vpd-depth": Kind("VPD depth", ("encoder.class_embeddings", "last_layer_depth.0.weight")),
    "evp-referring": Kind(
        "EVP referring segmentation", ("classifier.conv1_4.weight", "aggregation.")
    ),
    "vpd-referring": Kind(
        "VPD referring segmentation", ("classifier.conv1_4.weight", "text_adapter.fc.0.weight")
    ),
}
"""By the name of the converter; a checkpoint is of the first kind whose signs it all has."""


class IncompleteError(InputError):
    """A checkpoint misses entries that the model needs.

    Attributes:
        report: of every entry; its ``missing`` lists them.
    """

    def __init__(self, report: KeyReport) -> None:
        first = ", ".join(report.missing[:3]) + (" ..." if len(report.missing) > 3 else "")
        count = len(report.missing)
        super().__init__(
            f"the checkpoint is not whole, {count} {'entry is' if count == 1 else 'entries are'} "
            f"missing ({first}): get it whole, or go on with random values for them (--partial)"
        )
        self.report = report


@dataclass(frozen=True)
class Layout:
    """Names of the entries of an original checkpoint.

    Attributes:
        kind: name of the converter.
        unet: prefix of the UNet's entries; empty: there is none.
        vae: prefix of the autoencoder's; empty: there is none.
        names: patterns of the other entries, matched at the beginning, and our names below
            ``method``.
        dropped: prefixes of entries that are not needed, and why.
    """

    kind: str
    unet: str
    vae: str
    names: Mapping[str, str]
    dropped: Mapping[str, str]

    @property
    def title(self) -> str:
        """Name of the model, for messages."""
        return KINDS[self.kind].title


def unneeded(unet: str, vae: str) -> dict[str, str]:
    """Return the prefixes of entries that every checkpoint of VPD holds and never uses."""
    return {
        vae + "post_quant_conv.": "belongs to the VAE's decoder, which VPD never runs",
        vae + "decoder.": "the VAE's decoder, which VPD never runs",
        unet + "out.": "the UNet's output head, which VPD never runs",
        "sd_model.": "constants of the noise schedule, which VPD never uses",
    }


def require(state: Mapping[str, Tensor], layout: Layout) -> None:
    """Refuse a checkpoint of another model.

    Raises:
        InputError: if it is one; names the converter for it, if there is one.
    """
    found = next((name for name, kind in KINDS.items() if not kind.missing_signs(state)), None)
    if found == layout.kind:
        return
    if found:
        reason = f"it looks like {KINDS[found].title}: convert it as {found}"
    else:
        first = next(iter(state), "none")
        missing = KINDS[layout.kind].missing_signs(state)[0]
        reason = f"it has no {missing} (its first entry is {first})"
    raise InputError(f"not a checkpoint of {layout.title}: {reason}")


def convert(
    state: Mapping[str, Tensor], layout: Layout, build: Callable[[], DenseModel], *, partial: bool
) -> tuple[DenseModel, KeyReport]:
    """Return our model with the checkpoint's values, and the key report.

    Args:
        state: original names, without ``module.``.
        layout: names of the checkpoint.
        build: makes the model.
        partial: accept missing entries (they keep their random initialisation).

    Raises:
        InputError: if an entry has another shape.
        IncompleteError: if entries are missing.
    """
    with torch.device("meta"):
        model = build()
    report, ours = _rename(state, model, layout)
    report.missing = sorted(set(model.state_dict()) - set(ours))
    if report.missing and not partial:
        raise IncompleteError(report)
    constants = dict(model.named_buffers()).keys() - model.state_dict().keys()
    if report.missing or constants:  # which no checkpoint holds
        model = build()
    require_finite(ours.items(), "the checkpoint")
    model.load_state_dict(ours, assign=True, strict=not report.missing)
    return model.eval(), report


def _rename(
    state: Mapping[str, Tensor], model: DenseModel, layout: Layout
) -> tuple[KeyReport, dict[str, Tensor]]:
    parts: tuple[tuple[Part, str], ...] = (("unet", layout.unet), ("vae", layout.vae))
    renamers = {
        part: ldm_renamer(model.get_submodule(f"method.backbone.{part}"), part)
        for part, prefix in parts
        if prefix
    }
    wanted = model.state_dict()
    report, ours = KeyReport(), {}
    for key, value in state.items():
        reason = next((why for prefix, why in layout.dropped.items() if key.startswith(prefix)), "")
        if reason:
            report.dropped[key] = reason
            continue
        if layout.unet and key.startswith(layout.unet):
            name = renamers["unet"](key.removeprefix(layout.unet))
            target = _join("method.backbone.unet.", name)
        elif layout.vae and key.startswith(layout.vae):
            target = _join("method.backbone.vae.", renamers["vae"](key.removeprefix(layout.vae)))
            value = vae_value(target or "", value)
        else:
            target = _join("method.", _renamed(key, layout.names))
        if target is None or target not in wanted:
            report.unused.append(key)
        elif value.shape != wanted[target].shape:
            raise InputError(
                f"{key} has shape {tuple(value.shape)}, {layout.title} needs "
                f"{tuple(wanted[target].shape)}"
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
