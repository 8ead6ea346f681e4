"""Measure the standard deviation of latents, by which EVP divides them."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.backbones.stable_diffusion import StableDiffusion
from diffsight.ops.padding import MID_GREY, pad_to_multiple


@torch.no_grad()
def measure_latent_std(
    backbone: StableDiffusion, images: Iterable[Float[Tensor, "b 3 _ _"]]
) -> tuple[float, Sequence[float]]:
    """Return the standard deviation of unscaled latents, of all values and of every channel.

    Differs from the authors' code of EVP: their script for depth encodes images in [0, 1], but
    their training encodes images in [-1, 1]. Here the images are encoded as in training.

    Args:
        backbone: backbone whose encoder is used.
        images: batches of RGB images in [0, 1].
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
