"""Rules that map the names in an original checkpoint to those in diffsight's models."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from diffsight.backbones.diffusion_weights import Part, ldm_renamer
from diffsight.backbones.ldm_keys import KeyReport, vae_value
from diffsight.errors import InputError
from diffsight.label_maps import ADE20K_CLASSES, CITYSCAPES_CLASSES, CITYSCAPES_IDS
from diffsight.model import DenseModel
from diffsight.weights import require_finite


@dataclass(frozen=True)
class Kind:
    """A kind of original checkpoint, such as that of VPD's depth model.

    Attributes:
        title: name of the model, for messages.
        distinctive_keys: names by which its checkpoints are recognised; a name that ends with a
            dot is a prefix.
    """

    title: str
    distinctive_keys: Sequence[str]

    def missing_keys(self, state: Mapping[str, Tensor]) -> list[str]:
        """Return the distinctive keys that a checkpoint does not have."""
        return [
            name
            for name in self.distinctive_keys
            if name not in state
            and not (name.endswith(".") and any(key.startswith(name) for key in state))
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
"""Kinds by converter name; a checkpoint is of the first kind whose keys are all in it."""


class IncompleteError(InputError):
    """A checkpoint lacks entries that the model needs.

    Attributes:
        report: report on every key; its ``missing`` lists the entries.
    """

    def __init__(self, report: KeyReport) -> None:
        first = ", ".join(report.missing[:3]) + (" ..." if len(report.missing) > 3 else "")
        count = len(report.missing)
        super().__init__(
            f"the checkpoint is incomplete, {count} {'entry is' if count == 1 else 'entries are'} "
            f"missing ({first}): use a complete one, or accept random values (--partial)"
        )
        self.report = report


@dataclass(frozen=True)
class Layout:
    """The names in a kind of original checkpoint, and the rules that rename them.

    Attributes:
        kind: name of the converter.
        unet: prefix of the UNet's entries; empty if there is no UNet.
        vae: prefix of the autoencoder's entries; empty if there is no autoencoder.
        names: rules for the other entries: a regular expression that matches the beginning of a
            name, and its replacement. ``method.`` is added in front of the new name.
        dropped: prefixes of entries that are not needed, with the reason.
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


def unused_prefixes(unet: str, vae: str) -> dict[str, str]:
    """Return prefixes of checkpoint entries that VPD never uses, each with the reason.

    Args:
        unet: prefix of the UNet's entries.
        vae: prefix of the autoencoder's entries.

    Returns:
        The reason by prefix, in the form of ``Layout.dropped``.
    """
    return {
        vae + "post_quant_conv.": "belongs to the VAE's decoder, which VPD never runs",
        vae + "decoder.": "the VAE's decoder, which VPD never runs",
        unet + "out.": "the UNet's output head, which VPD never runs",
        "sd_model.": "constants of the noise schedule, which VPD never uses",
    }


def require(state: Mapping[str, Tensor], layout: Layout) -> None:
    """Check that a checkpoint is of the kind that a layout describes.

    Raises:
        InputError: if it is of another kind; the message names the converter for it, if there is
            one.
    """
    actual = next((name for name, kind in KINDS.items() if not kind.missing_keys(state)), None)
    if actual == layout.kind:
        return
    if actual:
        reason = f"it looks like {KINDS[actual].title}: convert it as {actual}"
    else:
        first = next(iter(state), "none")
        missing = KINDS[layout.kind].missing_keys(state)[0]
        reason = f"it has no {missing} (its first entry is {first}): choose another converter"
    raise InputError(f"not a checkpoint of {layout.title}: {reason}")


def read_shape(state: Mapping[str, Tensor], name: str, num_axes: int) -> tuple[int, ...]:
    """Return the shape of an entry that decides sizes of the model.

    Args:
        state: checkpoint with the original names.
        name: name of the entry.
        num_axes: number of axes of the entry in the authors' checkpoints.

    Raises:
        InputError: if the entry is missing, is empty, or has another number of axes.
    """
    if name not in state:
        raise InputError(
            f"the checkpoint is incomplete, {name} is missing, whose shape is needed also with "
            "--partial: use a complete one"
        )
    shape = tuple(state[name].shape)
    if len(shape) != num_axes or 0 in shape:
        raise InputError(
            f"{name} has shape {shape}, but needs {num_axes} axes, none of them empty: convert a "
            "checkpoint of the released code"
        )
    return shape


def read_classes(
    state: Mapping[str, Tensor], names: Sequence[str] | None = None
) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """Return names and ids of the classes of a segmentation checkpoint.

    Args:
        state: checkpoint of mmseg.
        names: names of its classes; default: those of Cityscapes for 19 classes, else the 150 of
            ADE20K.

    Returns:
        Names, and the ids as for ``Segmentation``, see ``class_ids``.

    Raises:
        InputError: if the checkpoint has another number of classes than names.
    """
    key = "decode_head.conv_seg.weight"
    if state[key].ndim != 4:
        raise InputError(f"{key} has shape {tuple(state[key].shape)}: a convolution has four axes")
    count = len(state[key])
    default = CITYSCAPES_CLASSES if count == len(CITYSCAPES_CLASSES) else ADE20K_CLASSES
    names = tuple(names or default)
    if len(names) != count:
        raise InputError(
            f"the checkpoint has {count} classes, but {len(names)} names are given: name them "
            "with --names"
        )
    return names, class_ids(names)


def class_ids(names: Sequence[str]) -> tuple[int, ...] | None:
    """Return the ids of Cityscapes' classes, if these are the names of them.

    The ids are ``labelIds``, which the benchmark of Cityscapes reads. None for other classes, which
    are numbered from 0.
    """
    return CITYSCAPES_IDS if tuple(names) == CITYSCAPES_CLASSES else None


def convert(
    state: Mapping[str, Tensor],
    layout: Layout,
    build: Callable[[], DenseModel],
    *,
    partial: bool,
    originals: Mapping[str, str] = MappingProxyType({}),
) -> tuple[DenseModel, KeyReport]:
    """Return a model with the weights of a checkpoint, and a report on every key.

    Args:
        state: checkpoint with the original names, without ``module.``.
        layout: names in the checkpoint.
        build: function that builds the model with random weights, also on the meta device.
        partial: accept missing entries (they keep their random initialisation).
        originals: the name in the checkpoint of entries that have another one in ``state``. The
            report lists it. If it has several entries in ``state``, the report lists the names of
            all of them in the model, with commas between them.

    Raises:
        InputError: if an entry has a wrong shape or values that are not finite.
        IncompleteError: if entries are missing.
    """
    with torch.device("meta"):
        model = build()
    report, ours = _rename(state, model, layout, originals)
    report.missing = sorted(set(model.state_dict()) - set(ours))
    if report.missing and not partial:
        raise IncompleteError(report)
    constants = dict(model.named_buffers()).keys() - model.state_dict().keys()
    if report.missing or constants:  # values that are not in the checkpoint must be computed
        model = build()
    require_finite(ours.items(), "the checkpoint")
    model.load_state_dict(ours, assign=True, strict=not report.missing)
    return model.eval(), report


def _rename(
    state: Mapping[str, Tensor], model: DenseModel, layout: Layout, originals: Mapping[str, str]
) -> tuple[KeyReport, dict[str, Tensor]]:
    """Return a report on every key, and the tensors of a checkpoint under the model's names.

    Raises:
        InputError: if a tensor has another shape than in the model.
    """
    parts: tuple[tuple[Part, str], ...] = (("unet", layout.unet), ("vae", layout.vae))
    renamers = {
        part: ldm_renamer(model.get_submodule(f"method.backbone.{part}"), part)
        for part, prefix in parts
        if prefix
    }
    expected = model.state_dict()
    report, ours = KeyReport(), {}
    used: dict[str, list[str]] = {}
    for key, value in state.items():
        original = originals.get(key, key)
        reason = next((why for prefix, why in layout.dropped.items() if key.startswith(prefix)), "")
        if reason:
            report.dropped[original] = reason
            continue
        if layout.unet and key.startswith(layout.unet):
            name = renamers["unet"](key.removeprefix(layout.unet))
            target = _join("method.backbone.unet.", name)
        elif layout.vae and key.startswith(layout.vae):
            target = _join("method.backbone.vae.", renamers["vae"](key.removeprefix(layout.vae)))
            value = vae_value(target or "", value)
        else:
            target = _join("method.", _renamed(key, layout.names))
        if target is None or target not in expected:
            report.unused.append(original)
        elif value.shape != expected[target].shape:
            part = original if original == key else f"{original} (as {target})"
            raise InputError(
                f"{part} has shape {tuple(value.shape)}, {layout.title} needs "
                f"{tuple(expected[target].shape)}: convert a checkpoint of the released code"
            )
        else:
            used.setdefault(original, []).append(target)
            ours[target] = value
    report.used = {original: ", ".join(targets) for original, targets in used.items()}
    report.unused = [key for key in dict.fromkeys(report.unused) if key not in used]
    return report, ours


def _renamed(key: str, names: Mapping[str, str]) -> str | None:
    """Return a name after the first rule that matches it; None if no rule does."""
    for pattern, ours in names.items():
        if match := re.match(pattern, key):
            return match.expand(ours) + key[match.end() :]
    return None


def _join(prefix: str, name: str | None) -> str | None:
    return None if name is None else prefix + name
