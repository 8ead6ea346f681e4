"""Converted names equal those of diffusers' converter, for all keys of Stable Diffusion 1.5."""

import json
from pathlib import Path

import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)

from diffsight.backbones import StableDiffusion
from diffsight.backbones.diffusion_weights import ldm_renamer

MANIFEST = Path(__file__).parents[1] / "parity" / "vpd_depth" / "manifest.json"
UNET = "encoder.unet.unet.diffusion_model."
VAE = "encoder.encoder_vq."


def number_keys(prefix: str, new_prefix: str) -> dict[str, torch.Tensor]:
    """Return original keys with values that identify them."""
    keys = [key for key in json.loads(MANIFEST.read_text()) if key.startswith(prefix)]
    return {
        new_prefix + key.removeprefix(prefix): torch.full((1, 1, 1, 1), float(i))
        for i, key in enumerate(keys)
    }


def test_unet_names_equal_those_of_diffusers() -> None:
    with torch.device("meta"):
        unet = StableDiffusion("sd15").unet
    original = number_keys(UNET, "model.diffusion_model.")
    for i, key in enumerate(("out.0.weight", "out.0.bias", "out.2.weight", "out.2.bias")):
        original[f"model.diffusion_model.{key}"] = torch.full((1,), -1.0 - i)
    theirs = convert_ldm_unet_checkpoint(dict(original), dict(unet.config))
    rename = ldm_renamer(unet, "unet")
    ours = {
        rename(key.removeprefix("model.diffusion_model.")): value for key, value in original.items()
    }
    assert {k: v.flatten()[0].item() for k, v in ours.items()} == {
        k: v.flatten()[0].item() for k, v in theirs.items()
    }
    assert set(unet.state_dict()) <= set(ours)


def test_vae_names_equal_those_of_diffusers() -> None:
    with torch.device("meta"):
        vae = StableDiffusion("sd15").vae
    original = number_keys(VAE, "first_stage_model.")
    config = {
        "down_block_types": ("D",) * 4,
        "up_block_types": ("U",) * 4,
        "block_out_channels": (1,) * 4,
    }
    theirs = convert_ldm_vae_checkpoint(dict(original), config)
    rename = ldm_renamer(vae, "vae")
    ours = {
        rename(key.removeprefix("first_stage_model.")): value for key, value in original.items()
    }
    ours.pop(None)  # post_quant_conv belongs to the decoder
    assert set(ours) == set(vae.state_dict())
    for key, value in ours.items():
        assert theirs[key].flatten()[0] == value.flatten()[0], key
