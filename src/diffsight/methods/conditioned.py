"""A diffusion model under a fixed condition, as a plain backbone."""

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.backbones.base import AbstractBackbone, AbstractDiffusionBackbone
from diffsight.methods.parts import encode_latent, require_fitting_text
from diffsight.prompts import AbstractPrompt
from diffsight.types import Inputs, Latents, Pyramid


class Conditioned(AbstractBackbone):
    """One pass of a diffusion model without noise, under prompts that need no text.

    Args:
        backbone: the diffusion model.
        prompts: the condition, such as ``Unprompted``.
        timestep: step whose embedding conditions the UNet.
    """

    def __init__(
        self,
        backbone: AbstractDiffusionBackbone,
        prompts: AbstractPrompt,
        *,
        timestep: int = 1,
    ) -> None:
        super().__init__()
        require_fitting_text(prompts, backbone)
        self.backbone = backbone
        self.prompts = prompts
        self.timestep = timestep
        self.channels = backbone.channels
        self.strides = backbone.strides
        self.size_multiple = backbone.size_multiple

    def forward(
        self, image: Float[Tensor, "b 3 h w"], *, latents: Latents | None = None
    ) -> Pyramid:
        """Return the taps of the UNet's decoder."""
        height, width = image.shape[-2:]
        latent = encode_latent(self.backbone, image, latents)
        timesteps = torch.full((len(latent),), self.timestep, device=latent.device)
        features = self.backbone.features(latent, self.prompts(Inputs(image)), timesteps)
        return Pyramid(features, self.strides, (height, width))
