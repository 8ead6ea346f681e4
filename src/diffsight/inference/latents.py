"""Statistics of latents."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.backbones.stable_diffusion import StableDiffusion
from diffsight.ops.padding import MID_GREY, pad_to_multiple


@torch.no_grad()
def deviation(backbone: StableDiffusion, images: Iterable[Float[Tensor, "b 3 _ _"]]) -> float:
    """Return the standard deviation of all numbers of all latents, before any scale.

    Differs from the authors' code of EVP, whose script for depth feeds images in [0, 1] where its
    training feeds [-1, 1]: these are the latents that the model sees.

    Args:
        backbone: whose encoder is used.
        images: in [0, 1].
    """
    total = square = count = 0.0
    device = next(backbone.parameters()).device
    backbone.eval()
    for image in images:
        padded = pad_to_multiple(image.to(device), backbone.vae.stride, MID_GREY)
        latent = backbone.encode(padded).double() / backbone.latent_scale
        total += float(latent.sum())
        square += float(latent.square().sum())
        count += latent.numel()
    mean = total / count
    return (square / count - mean**2) ** 0.5
