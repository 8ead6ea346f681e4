"""A frozen vision transformer: one vector per patch (CLIP, DINOv2 and their like)."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsight.backbones.clip import Squeeze, refused, tower_folder
from diffsight.errors import InputError


class PatchTokens(nn.Module):
    """Patch tokens of the last layer, as a map.

    Args:
        source: ``tiny`` or a diffusers folder (its ``image_encoder``), or the folder of a CLIP
            vision model or of a DINOv2 without registers.
        side: pixels of the square that an image is squeezed to, a multiple of the patch; another
            than the model's own interpolates its position embedding. Default: the model's own.

    Raises:
        InputError: if there is no such model.
    """

    def __init__(self, source: str | Path, *, side: int | None = None) -> None:
        super().__init__()
        from transformers import (  # half a second
            AutoConfig,
            AutoModel,
            CLIPVisionModelWithProjection,
        )

        folder = tower_folder(source)
        with refused(f"{source}: no vision transformer there"):
            config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
            clip = config.model_type.startswith("clip")
            cls = CLIPVisionModelWithProjection if clip else AutoModel
            model = cls.from_pretrained(folder, local_files_only=True)
        # CLIP must be asked to fit its positions to another side, DINOv2 always does
        self.options = {"interpolate_pos_encoding": True} if clip else {}
        self.tower: Any = model.float().eval().requires_grad_(False)
        config = self.tower.config
        self.width: int = config.hidden_size
        self.patch: int = config.patch_size
        self.side: int = side or config.image_size
        if self.side % self.patch:
            raise InputError(f"side {self.side}: {source} takes multiples of {self.patch} pixels")
        self.squeeze = Squeeze(folder, self.side)

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c gh gw"]:
        """One vector per patch of the image, squeezed to a square.

        Args:
            image: in [0, 1].
        """
        tokens = self.tower(pixel_values=self.squeeze(image), **self.options).last_hidden_state
        grid = self.side // self.patch
        return tokens[:, 1:].mT.unflatten(2, (grid, grid))
