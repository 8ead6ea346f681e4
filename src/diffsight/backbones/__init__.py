"""Networks that turn an image into a pyramid of features."""

from diffsight.backbones.stable_diffusion import StableDiffusion

__all__ = ["StableDiffusion"]
