"""Extract features with a pretrained diffusion model, or with an untrained copy of it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from diffsight import assets
from diffsight.backbones import StableDiffusion, architectures
from diffsight.errors import InputError
from diffsight.prompts import Unprompted

Start = Literal["pretrained", "random UNet", "all random"]
FROM_SCRATCH = "none"  # recorded instead of a hash if the embedded model is not used


def folder_of(model: str) -> Path:
    """Return the folder that ``--model`` names; ``tiny`` is the embedded model.

    Raises:
        InputError: if the folder has no UNet.
    """
    folder = assets.find(model) if model in assets.NAMES else Path(model)
    if not (folder / "unet" / "config.json").is_file():
        raise InputError(f"{folder}: has no unet/config.json: give a diffusers folder, or tiny")
    return folder


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 of the weights of the UNet and of the autoencoder, 64 hex digits."""
    digest = hashlib.sha256()
    for path in sorted(p for part in ("unet", "vae") for p in folder.glob(f"{part}/*model*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class Extractor(nn.Module):
    """Module that returns the UNet's feature maps for latents without noise and an empty prompt.

    Args:
        folder: folder with unet/, vae/ and, for the prompt, text_encoder/ and tokenizer/.
        start: which weights are pretrained. With ``random UNet``, the autoencoder is pretrained.
        timestep: diffusion step whose embedding conditions the UNet.
        taps: levels of the UNet to return; 0 is the finest.
        seed: seed of the random weights.
    """

    def __init__(
        self,
        folder: Path,
        start: Start = "pretrained",
        *,
        timestep: int = 1,
        taps: Sequence[int] = (0, 1, 2, 3),
        seed: int = 0,
    ) -> None:
        super().__init__()
        architecture, scale = architectures.from_weights(folder)
        backbone = StableDiffusion(architecture, weights=folder, latent_scale=scale)
        if start != "pretrained":
            torch.manual_seed(seed)
            fresh = StableDiffusion(architecture, weights=None, latent_scale=scale)
            if start == "random UNet":
                fresh.vae = backbone.vae
            backbone = fresh
        self.backbone = backbone
        self.timestep, self.taps = timestep, tuple(taps)
        self.channels = tuple(backbone.channels[tap] for tap in self.taps)
        prompt = Unprompted.from_folder(folder, backbone.context_dim)
        self.register_buffer("condition", prompt.rows[None])

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Return the latents ``b c h w`` of RGB images in [0, 1], without gradients."""
        return self.backbone.encode(image)

    def forward(self, latent: Tensor) -> list[Tensor]:
        """Return feature maps ``b c h w``, finest first, for latents ``b c h w``."""
        condition = self.get_buffer("condition").expand(len(latent), -1, -1)
        timesteps = torch.full((len(latent),), self.timestep, device=latent.device)
        features = self.backbone.features(latent, condition, timesteps)
        return [features[tap] for tap in self.taps]

    @torch.no_grad()
    def match_latents(self, image: Tensor) -> None:
        """Set the latent scale so that these images' latents have a standard deviation of 1."""
        self.backbone.latent_scale /= float(self.encode(image).std())
