"""Architectures of Stable Diffusion: arguments that build diffusers' UNet and VAE encoder."""

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffsight import assets
from diffsight.backbones.diffusion_weights import ldm_entries
from diffsight.errors import InputError
from diffsight.formats.sizes import check_sizes
from diffsight.formats.text import read_object, reading

_ATTENTION_DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
_ATTENTION_UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
_UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": _ATTENTION_DOWN,
    "up_block_types": _ATTENTION_UP,
    "norm_num_groups": 32,
}
_VAE = {
    "latent_channels": 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "norm_num_groups": 32,
}
SCALING_FACTOR = 0.18215  # of the latents, in Stable Diffusion 1.x and 2.x
PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "sd15": {"unet": {**_UNET, "cross_attention_dim": 768, "attention_head_dim": 8}, "vae": _VAE},
    "sd21": {
        "unet": {
            **_UNET,
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
        },
        "vae": _VAE,
    },
}


def resolve(architecture: str | Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the constructor arguments of the UNet and the VAE encoder.

    Args:
        architecture: ``sd15``, ``sd21``, ``tiny`` (read from the files of the embedded model), or
            ``{"unet": {...}, "vae": {...}}`` with diffusers' names. A mapping replaces values of
            sd15, so a small model states only its widths.

    Raises:
        InputError: for an unknown name or part, or a damaged embedded model.
    """
    if isinstance(architecture, str):
        if architecture in assets.NAMES:
            return from_folder(assets.find(architecture))
        if architecture not in PRESETS:
            names = ", ".join((*PRESETS, *assets.NAMES))
            raise InputError(
                f"unknown architecture {architecture!r}: choose {names}, or give a mapping with "
                "'unet' and 'vae'"
            )
        return {part: dict(values) for part, values in PRESETS[architecture].items()}
    unknown = set(architecture) - {"unet", "vae"}
    if unknown:
        raise InputError(
            f"unknown part {sorted(unknown)} of an architecture: it has 'unet' and 'vae'"
        )
    base = PRESETS["sd15"]
    changes = {part: architecture.get(part, {}) for part in ("unet", "vae")}
    for part, values in changes.items():
        if not isinstance(values, Mapping):
            raise InputError(f"architecture.{part} is {values!r}: give a mapping")
    resolved = {part: {**base[part], **values} for part, values in changes.items()}
    for part, values in resolved.items():
        check_sizes(f"architecture.{part}", values)
    return resolved


def from_folder(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the architecture of a diffusers folder, without values that are diffusers' defaults.

    Raises:
        InputError: if a configuration file is missing, incomplete or damaged.
    """
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel  # takes seconds

    paths = [folder / part / "config.json" for part in ("unet", "vae")]
    unet, vae = map(_read, paths)
    base = PRESETS["sd15"]
    defaults = {
        name: list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        for name, parameter in inspect.signature(UNet2DConditionModel).parameters.items()
    }
    options = {name: unet[name] for name in defaults if name in unet}
    architecture = {
        "unet": {k: v for k, v in options.items() if k in base["unet"] or v != defaults[k]},
        "vae": {name: vae[name] for name in base["vae"] if name in vae},
    }
    needed = {"unet": {"block_out_channels", "cross_attention_dim"}, "vae": base["vae"].keys()}
    for path, (part, values) in zip(paths, architecture.items(), strict=True):
        if missing := sorted(needed[part] - values.keys()):
            raise InputError(f"{path}: {missing[0]} is missing: give a diffusers folder")
        check_sizes(str(path), values)
    return architecture


def from_weights(source: Path) -> tuple[str | dict[str, dict[str, Any]], float]:
    """Return the architecture of a Stable Diffusion model, and the scale of its latents.

    The scale is the factor that brings latents to the variance that the UNet was trained on.

    Args:
        source: diffusers folder, or one original file.

    Raises:
        InputError: if a configuration is missing or damaged, or the file has no weights of Stable
            Diffusion 1.x or 2.x.
    """
    if source.is_dir():
        path = source / "vae" / "config.json"
        factor = _read(path).get("scaling_factor", SCALING_FACTOR)
        if not isinstance(factor, int | float) or not 0 < factor < math.inf:
            raise InputError(f"{path}: scaling_factor is {factor!r}: write a positive number")
        return from_folder(source), float(factor)
    entries = ldm_entries(source, "unet")
    widths = {v.shape[-1] for k, v in entries.items() if k.endswith("attn2.to_k.weight")}
    for name, preset in PRESETS.items():
        if widths == {preset["unet"]["cross_attention_dim"]}:
            return name, SCALING_FACTOR
    raise InputError(
        f"{source}: its UNet takes text vectors of {sorted(widths)} numbers, so it is not Stable "
        "Diffusion 1.x (768) or 2.x (1024): give a file of one of these, or a diffusers folder"
    )


def _read(path: Path) -> dict[str, Any]:
    with reading(path, "no configuration ({reason}): give a diffusers folder"):
        return read_object(path)
