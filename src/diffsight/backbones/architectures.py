"""Stable Diffusion's shapes as data: what diffusers needs to build the UNet and the VAE encoder."""

from collections.abc import Mapping
from typing import Any

from diffsight.types import InputError

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
        architecture: ``sd15``, ``sd21``, or ``{"unet": {...}, "vae": {...}}`` of diffusers' names,
            laid over sd15's (so a small one states its widths only).

    Raises:
        InputError: for an unknown name or part.
    """
    if isinstance(architecture, str):
        if architecture not in PRESETS:
            raise InputError(
                f"unknown architecture {architecture!r}: choose {', '.join(PRESETS)}, or give "
                f"a mapping "
                "with 'unet' and 'vae'"
            )
        return {part: dict(values) for part, values in PRESETS[architecture].items()}
    unknown = set(architecture) - {"unet", "vae"}
    if unknown:
        raise InputError(
            f"unknown part {sorted(unknown)} of an architecture: it has 'unet' and 'vae'"
        )
    base = PRESETS["sd15"]
    return {part: {**base[part], **architecture.get(part, {})} for part in ("unet", "vae")}
