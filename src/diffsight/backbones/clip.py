"""``ClipVision``: a frozen CLIP vision tower, which returns one vector per image."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diffsight.backbones.base import PretrainedPart
from diffsight.errors import InputError
from diffsight.formats.sizes import check_sizes
from diffsight.formats.text import read_object, reading
from diffsight.ops.resize import resize_antialiased
from diffsight.weights import (
    load_tower,
    locate,
    part_folder,
    read_config,
    read_folder,
    report_errors,
)

# of OpenAI's CLIP, for folders without preprocessor_config.json
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
# options that define a tower
_CONFIG = (
    *("hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers"),
    *("num_attention_heads", "num_channels", "image_size", "patch_size", "hidden_act"),
    "layer_norm_eps",
)


class ClipVision(PretrainedPart):
    """A frozen CLIP vision tower.

    In few_shot, its image features determine the weights of the tables of the label codebook.

    Args:
        weights: ``tiny``, a folder of a CLIP vision model, or a diffusers folder or hub id that
            holds one as ``image_encoder``; None: random, for weights that are loaded later.
        revision: branch, tag or commit of a hub id.
        architecture: options of CLIP's vision configuration, with ``image_mean`` and
            ``image_std``; default: those of the weights.

    Raises:
        InputError: if there is no such tower.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        revision: str | None = None,
        architecture: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection  # half a second

        if architecture is None:
            if weights is None:
                raise InputError("ClipVision: give weights or an architecture")
            architecture = _architecture(tower_folder(weights, revision), weights)
        self._restate({"architecture": architecture})
        config = {k: v for k, v in architecture.items() if k not in ("image_mean", "image_std")}
        check_sizes("architecture of CLIP", config)
        # initial values that are overwritten must not advance the random number generator
        with (
            report_errors(f"{weights or 'architecture'}: no CLIP vision model"),
            torch.random.fork_rng(devices=[], enabled=weights is not None),
        ):
            tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**config))
            self.tower: Any = tower.float().eval().requires_grad_(False)
            self.width: int = self.tower.config.projection_dim
            self.preprocess = SquareInput(
                self.tower.config.image_size, architecture["image_mean"], architecture["image_std"]
            )
        if weights is not None:
            self.load_weights(weights, revision=revision)

    def load_weights(self, source: str | Path, *, revision: str | None = None) -> None:
        """Load the weights from a folder or hub id."""
        from transformers import CLIPVisionModelWithProjection

        _, state = read_folder(tower_folder(source, revision))
        cls, config = CLIPVisionModelWithProjection, self.tower.config
        loaded = load_tower(cls, config, state, source, "CLIP vision model")
        self.tower.load_state_dict(loaded.state_dict())
        self.source, self.revision = str(source), revision

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b f"]:
        """Return image features that are scaled to a mean square of 1.

        Args:
            image: in [0, 1]; it is resized to a square, so that no part is cropped.
        """
        embeds = self.tower(pixel_values=self.preprocess(image)).image_embeds
        return functional.normalize(embeds, dim=1) * self.width**0.5


def _architecture(folder: Path, source: str | Path) -> dict[str, Any]:
    """Return the architecture of the CLIP vision tower in a folder."""
    from transformers import CLIPVisionConfig

    missing = f"{source}: no CLIP vision model there"
    repair = "give the folder of one, or set codebook to 1"
    config = read_config(CLIPVisionConfig, folder, missing, repair)
    mean, std = read_normalisation(folder)
    kept = {name: getattr(config, name) for name in _CONFIG}
    return kept | {"image_mean": mean, "image_std": std}


class SquareInput(nn.Module):
    """Preprocessing of a vision tower: resize images to a square and normalise their colours.

    Args:
        side: side of the square in pixels.
        mean: mean of each colour channel, for colours in [0, 1].
        std: standard deviation of each colour channel.
    """

    def __init__(self, side: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.side = side
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 side side"]:
        """Return the tower's input.

        Args:
            image: in [0, 1].
        """
        size = (self.side, self.side)
        small = resize_antialiased(image, size, "bicubic").clamp(0, 1)
        return (small - self.mean) / self.std


def tower_folder(source: str | Path, revision: str | None = None) -> Path:
    """Return the folder of a CLIP vision tower.

    Args:
        source: ``tiny``, a folder or hub id of a CLIP vision model, or of a diffusers model with
            the folder ``image_encoder``.
        revision: branch, tag or commit of a hub id.

    Raises:
        InputError: if there is no such folder.
    """
    return part_folder(locate(source, ("image_encoder",), revision=revision), "image_encoder")


def read_normalisation(folder: Path) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of the colours that a vision tower expects (RGB, [0, 1]).

    Without a ``preprocessor_config.json`` in the folder they are those of OpenAI's CLIP.

    Raises:
        InputError: if ``preprocessor_config.json`` is damaged.
    """
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return list(MEAN), list(STD)
    with reading(path, "damaged ({reason}): fetch the model again"):
        settings = read_object(path)
        mean, std = (
            [float(one) for one in settings.get(name, default)]
            for name, default in (("image_mean", MEAN), ("image_std", STD))
        )
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0 or not math.isfinite(sum(mean + std)):
            raise ValueError("image_mean and image_std must be three numbers each")
    return mean, std
