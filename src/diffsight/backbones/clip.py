"""A frozen CLIP vision tower: one vector per image."""

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diffsight import assets
from diffsight.types import InputError

# of OpenAI's CLIP, for folders without preprocessor_config.json
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class ClipVision(nn.Module):
    """Image features of CLIP, for the label codebook.

    Args:
        source: ``tiny``, a folder of a CLIP vision model, or a diffusers folder that holds one as
            ``image_encoder``.

    Raises:
        InputError: if there is none.
    """

    def __init__(self, source: str | Path) -> None:
        super().__init__()
        from transformers import CLIPVisionModelWithProjection  # half a second

        folder = assets.find(str(source)) if str(source) in assets.NAMES else Path(source)
        if (folder / "image_encoder").is_dir():
            folder = folder / "image_encoder"
        try:
            model = CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{source}: no CLIP vision model there ({reason}): give the folder of one, or use "
                "a codebook of 1"
            ) from None
        self.tower: Any = model.float().eval().requires_grad_(False)
        config: Any = model.config
        self.width: int = config.projection_dim
        self.side: int = config.image_size
        mean, std = normalisation_of(folder)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b f"]:
        """Features of mean square 1.

        Args:
            image: in [0, 1]; it is squeezed to a square, so that all of it is seen.
        """
        size = (self.side, self.side)
        small = functional.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)
        embeds = self.tower(pixel_values=(small - self.mean) / self.std).image_embeds
        return functional.normalize(embeds, dim=1) * self.width**0.5


def normalisation_of(folder: Path) -> tuple[Float[Tensor, "3 1 1"], Float[Tensor, "3 1 1"]]:
    """Mean and deviation of the colours that a vision tower expects, from its folder.

    Raises:
        InputError: if its preprocessor_config.json is damaged.
    """
    path, told = folder / "preprocessor_config.json", {}
    if path.is_file():
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise InputError(f"{path}: damaged: fetch the model again") from None
    mean, std = told.get("image_mean", MEAN), told.get("image_std", STD)
    return torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
