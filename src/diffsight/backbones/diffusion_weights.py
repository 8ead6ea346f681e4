"""Load the weights of Stable Diffusion from a diffusers folder or one original file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffsight.backbones.ldm_keys import (
    KeyReport,
    folder_key,
    unet_key,
    unet_prefixes,
    vae_encoder_key,
    vae_value,
)
from diffsight.errors import InputError
from diffsight.weights import read_checkpoint, read_folder, require_finite

Part = Literal["unet", "vae"]
LDM_PREFIX: Mapping[str, str] = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}


def load_part(module: nn.Module, part: Part, source: Path) -> KeyReport:
    """Load the weights of a UNet or a VAE encoder, and report which entries were used.

    Args:
        module: UNet or VAE encoder on any device; on the meta device its parameters are replaced.
        part: ``unet`` or ``vae``.
        source: diffusers folder, or one original file.

    Raises:
        InputError: if the weights are missing, or belong to another architecture.
    """
    expected = module.state_dict()
    rename: Callable[[str], str | None]
    if source.is_dir():
        (name, entries), rename = read_folder(source / part), folder_key
    else:
        name = source
        entries, rename = ldm_entries(source, part), ldm_renamer(module, part)
    report, state = KeyReport(), {}
    for key, value in entries.items():
        target = rename(key)
        if target not in expected:
            report.dropped[key] = "not part of the trunk or of the encoder"
            continue
        report.used[key] = target
        state[target] = vae_value(target, value) if part == "vae" else value
    report.missing = [key for key in expected if key not in state]
    _check(name, part, expected, state, report)
    dtype = torch.get_default_dtype()
    state = {key: value.to(dtype) for key, value in state.items()}
    require_finite(state.items(), name)
    module.load_state_dict(state, assign=True)
    return report


def ldm_renamer(module: nn.Module, part: Part) -> Callable[[str], str | None]:
    """Return a function that maps original names (without prefix) to the names of ``module``.

    It returns None for an entry that has no name in diffusers.
    """
    if part == "vae":
        return vae_encoder_key
    down: Any = module.get_submodule("down_blocks")
    kinds = [any(name == "attentions" for name, _ in block.named_children()) for block in down]
    prefixes = unet_prefixes(len(down), len(down[0].resnets), kinds)
    return lambda key: unet_key(key, prefixes)


def ldm_entries(path: Path, part: str) -> dict[str, Tensor]:
    """Return the entries of a part of an original checkpoint, without the part's prefix.

    Args:
        path: original file.
        part: ``unet`` or ``vae``.

    Raises:
        InputError: if the file cannot be read safely, or has no such entries.
    """
    prefix = LDM_PREFIX[part]
    tensors, _ = read_checkpoint(path)
    entries = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    if not entries:
        raise InputError(
            f"{path}: no entry begins with {prefix}: give a Stable Diffusion checkpoint"
        )
    return entries


def _check(
    path: Path,
    part: Part,
    expected: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    report: KeyReport,
) -> None:
    """Refuse weights that lack an entry of the module, or have an entry of another shape."""
    if report.missing:
        raise InputError(
            f"{path}: {len(report.missing)} entries of the {part} are missing, first "
            f"{report.missing[0]}: check the architecture argument"
        )
    for key, value in state.items():
        if value.shape != expected[key].shape:
            raise InputError(
                f"{path}: {key} has shape {tuple(value.shape)}, the architecture has "
                f"{tuple(expected[key].shape)}: choose the architecture of these weights (sd15, "
                "sd21 ...)"
            )
