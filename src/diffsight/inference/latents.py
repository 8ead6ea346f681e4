"""Statistics of latents."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.backbones.stable_diffusion import StableDiffusion
from diffsight.ops.padding import MID_GREY, pad_to_multiple


@torch.no_grad()
def deviation(
    backbone: StableDiffusion, images: Iterable[Float[Tensor, "b 3 _ _"]]
) -> tuple[float, Sequence[float]]:
    """Return the standard deviation of latents before any scale: of all numbers, and by channel.

    Differs from the authors' code of EVP, whose script for depth feeds images in [0, 1] where its
    training feeds [-1, 1]: these are the latents that the model sees.

    Args:
        backbone: whose encoder is used.
        images: in [0, 1].
    """
    total = square = torch.zeros((), dtype=torch.float64)
    count = 0
    device = next(backbone.parameters()).device
    scale = torch.tensor(backbone.latent_scale, dtype=torch.float64, device=device)
    scale = scale[:, None, None] if scale.ndim else scale
    backbone.eval()
    for image in images:
        padded = pad_to_multiple(image.to(device), backbone.vae.stride, MID_GREY)
        latent = backbone.encode(padded).double() / scale
        total = total + latent.sum(dim=(0, 2, 3)).cpu()
        square = square + latent.square().sum(dim=(0, 2, 3)).cpu()
        count += latent[:, 0].numel()
    mean, squared = total / count, square / count
    channels = (squared - mean.square()).sqrt()
    return float((squared.mean() - mean.mean().square()).sqrt()), channels.tolist()
