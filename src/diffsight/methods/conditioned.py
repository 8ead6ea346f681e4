"""``Conditioned``: a diffusion model with a fixed condition, used as a plain backbone."""

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.backbones.base import TIMESTEPS, AbstractBackbone, AbstractDiffusionBackbone
from diffsight.errors import InputError
from diffsight.methods.parts import encode_latent, require_fitting_text
from diffsight.prompts import AbstractPrompt
from diffsight.types import Inputs, Latents, Pyramid


class Conditioned(AbstractBackbone):
    """A backbone that runs a diffusion model without noise, with a condition that needs no text.

    Args:
        backbone: the diffusion model.
        prompts: prompts that return the condition, such as ``Unprompted``.
        timesteps: timesteps whose embeddings condition the UNet. It runs once for each, and the
            features of all passes are concatenated.

    Raises:
        InputError: if there is no timestep, one is out of range, or the prompts have another width
            than the condition.
    """

    def __init__(
        self,
        backbone: AbstractDiffusionBackbone,
        prompts: AbstractPrompt,
        *,
        timesteps: tuple[int, ...] = (1,),
    ) -> None:
        super().__init__()
        if not timesteps or not all(0 <= one < TIMESTEPS for one in timesteps):
            raise InputError(f"timesteps {timesteps}: give whole numbers from 0 to {TIMESTEPS - 1}")
        require_fitting_text(prompts, backbone)
        self.backbone = backbone
        self.prompts = prompts
        self.timesteps = timesteps
        self.channels = tuple(count * len(timesteps) for count in backbone.channels)
        self.strides = backbone.strides
        self.size_multiple = backbone.size_multiple

    def forward(
        self, image: Float[Tensor, "b 3 h w"], *, latents: Latents | None = None
    ) -> Pyramid:
        """Return the features of the UNet's decoder, finest first.

        Args:
            image: RGB in [0, 1]; both sides are multiples of ``size_multiple``.
            latents: cache of latents that several models share.
        """
        height, width = image.shape[-2:]
        latent = encode_latent(self.backbone, image, latents)
        condition = self.prompts(Inputs(image))
        passes = [
            self.backbone.features(latent, condition, latent.new_full(latent.shape[:1], one).long())
            for one in self.timesteps
        ]
        features = tuple(torch.cat(level, dim=1) for level in zip(*passes, strict=True))
        return Pyramid(features, self.strides, (height, width), extent_hw=(height, width))
