"""Stable Diffusion's shapes as data: what diffusers needs to build the UNet and the VAE encoder."""

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from diffsight import assets
from diffsight.backbones.sources import ldm_entries
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
    """The constructor arguments of the UNet and the VAE encoder.

    Args:
        architecture: ``sd15``, ``sd21``, ``tiny`` (as the embedded model's own files say), or
            ``{"unet": {...}, "vae": {...}}`` of diffusers' names, laid over sd15's (so a small one
            states its widths only).

    Raises:
        InputError: for an unknown name or part, or a damaged embedded model.
    """
    if isinstance(architecture, str):
        if architecture in assets.NAMES:
            return of_folder(assets.find(architecture))
        if architecture not in PRESETS:
            known = ", ".join((*PRESETS, *assets.NAMES))
            raise InputError(
                f"unknown architecture {architecture!r}: choose {known}, or give a mapping with "
                "'unet' and 'vae'"
            )
        return {part: dict(values) for part, values in PRESETS[architecture].items()}
    unknown = set(architecture) - {"unet", "vae"}
    if unknown:
        raise InputError(
            f"unknown part {sorted(unknown)} of an architecture: it has 'unet' and 'vae'"
        )
    base = PRESETS["sd15"]
    given = {part: architecture.get(part, {}) for part in ("unet", "vae")}
    for part, values in given.items():
        if not isinstance(values, Mapping):
            raise InputError(f"architecture.{part} is {values!r}: give a mapping")
    resolved = {part: {**base[part], **values} for part, values in given.items()}
    for part, values in resolved.items():
        check_sizes(f"architecture.{part}", values)
    return resolved


def of_folder(folder: Path) -> dict[str, dict[str, Any]]:
    """What the configurations of a diffusers folder say beside diffusers' defaults.

    Raises:
        InputError: if one of them is missing or damaged.
    """
    paths = [folder / part / "config.json" for part in ("unet", "vae")]
    unet, vae = map(_read, paths)
    base = PRESETS["sd15"]
    defaults = {
        name: list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        for name, parameter in inspect.signature(UNet2DConditionModel).parameters.items()
    }
    given = {name: unet[name] for name in defaults if name in unet}
    found = {
        "unet": {k: v for k, v in given.items() if k in base["unet"] or v != defaults[k]},
        "vae": {name: vae[name] for name in base["vae"] if name in vae},
    }
    needed = {"unet": {"block_out_channels", "cross_attention_dim"}, "vae": base["vae"].keys()}
    for path, (part, values) in zip(paths, found.items(), strict=True):
        if missing := sorted(needed[part] - values.keys()):
            raise InputError(f"{path}: no {missing[0]} in it: give a diffusers folder")
        check_sizes(str(path), values)
    return found


def of_weights(source: Path) -> tuple[str | dict[str, dict[str, Any]], float]:
    """Return the architecture of a diffusers folder or of one original file.

    With it comes the factor that brings the latents to the variance that the UNet was trained on.

    Raises:
        InputError: if a configuration is missing or damaged, or the file is of another model than
            Stable Diffusion 1.x or 2.x.
    """
    if source.is_dir():
        path = source / "vae" / "config.json"
        factor = _read(path).get("scaling_factor", SCALING_FACTOR)
        if not isinstance(factor, int | float) or not 0 < factor < math.inf:
            raise InputError(f"{path}: scaling_factor is {factor!r}: write a positive number")
        return of_folder(source), float(factor)
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
