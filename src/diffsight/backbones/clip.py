"""A frozen CLIP vision tower: one vector per image."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from diffsight import assets
from diffsight.errors import InputError

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

        folder = tower_folder(source)
        with refused(f"{source}: no CLIP vision model there", "use a codebook of 1"):
            model = CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True)
        self.tower: Any = model.float().eval().requires_grad_(False)
        self.width: int = self.tower.config.projection_dim
        self.squeeze = Squeeze(folder, self.tower.config.image_size)

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b f"]:
        """Features of mean square 1.

        Args:
            image: in [0, 1]; it is squeezed to a square, so that all of it is seen.
        """
        embeds = self.tower(pixel_values=self.squeeze(image)).image_embeds
        return functional.normalize(embeds, dim=1) * self.width**0.5


class Squeeze(nn.Module):
    """Images as a vision tower takes them: squeezed to its square, in its normalisation.

    Args:
        folder: of the tower; its preprocessor_config.json tells the normalisation.
        side: of the square, in pixels.

    Raises:
        InputError: if that file is damaged.
    """

    def __init__(self, folder: Path, side: int) -> None:
        super().__init__()
        self.side = side
        mean, std = _normalisation(folder)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 side side"]:
        """The tower's input.

        Args:
            image: in [0, 1].
        """
        size = (self.side, self.side)
        small = functional.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)
        return (small - self.mean) / self.std


def tower_folder(source: str | Path) -> Path:
    """Where a tower lies: in ``tiny``, in its own folder or in a diffusers folder."""
    folder = assets.find(str(source)) if str(source) in assets.NAMES else Path(source)
    inner = folder / "image_encoder"
    return inner if inner.is_dir() else folder


@contextmanager
def refused(what: str, otherwise: str = "") -> Iterator[None]:
    """One line instead of what transformers says about a folder."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        repair = ", or ".join(part for part in ("give the folder of one", otherwise) if part)
        raise InputError(f"{what} ({reason}): {repair}") from None


def _normalisation(folder: Path) -> tuple[Float[Tensor, "3 1 1"], Float[Tensor, "3 1 1"]]:
    """Mean and deviation of the colours that a vision tower expects, from its folder."""
    path, told = folder / "preprocessor_config.json", {}
    if path.is_file():
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise InputError(f"{path}: damaged: fetch the model again") from None
    mean, std = told.get("image_mean", MEAN), told.get("image_std", STD)
    return torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
