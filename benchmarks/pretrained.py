"""A diffusers folder as a source of features and of comparisons: pretrained, or its shape alone."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from diffsight import assets
from diffsight.backbones import StableDiffusion, architectures
from diffsight.backbones.attention_maps import MapRecorder, MapRequest
from diffsight.errors import InputError
from diffsight.prompts.text import empty_prompt

Start = Literal["pretrained", "random UNet", "all random"]


def folder_of(model: str) -> Path:
    """The folder that ``--model`` names; ``tiny`` is the embedded one.

    Raises:
        InputError: if there is no UNet in it.
    """
    folder = assets.find(model) if model in assets.NAMES else Path(model)
    if not (folder / "unet" / "config.json").is_file():
        raise InputError(f"{folder}: no unet/config.json there: give a diffusers folder, or tiny")
    return folder


def fingerprint(folder: Path) -> str:
    """SHA-256 over the weights of the UNet and of the autoencoder."""
    digest = hashlib.sha256()
    for path in sorted(p for part in ("unet", "vae") for p in folder.glob(f"{part}/*model*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class Extractor(nn.Module):
    """Clean latent to a list of feature maps, finest first, under an empty prompt.

    Args:
        folder: with unet/, vae/ and, for the prompt, text_encoder/ and tokenizer/.
        start: what is read from it. ``random UNet`` keeps the pretrained autoencoder.
        timestep: whose embedding conditions the UNet.
        taps: levels to return, 0 is the finest.
        seed: of what is random.
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
        architecture = architectures.of_folder(folder)
        scale = architectures.scaling_factor(folder)
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
        self.register_buffer("context", empty_prompt(folder, backbone.context_dim))

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """The latent of images, which no row of a comparison trains."""
        return self.backbone.encode(image)

    def forward(self, latent: Tensor) -> list[Tensor]:
        """Feature maps ``b c h w``."""
        context = self.get_buffer("context").expand(len(latent), -1, -1)
        steps = torch.full((len(latent),), self.timestep, device=latent.device)
        features = self.backbone.trunk(latent, context, steps, MapRecorder(MapRequest(levels=())))
        return [features[tap] for tap in self.taps]

    @torch.no_grad()
    def match_latents(self, image: Tensor) -> None:
        """Bring the latents to deviation 1, which no scale in the folder does for a random VAE."""
        self.backbone.latent_scale /= float(self.encode(image).std())
