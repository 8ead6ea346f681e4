"""Networks that turn an image into a pyramid of features."""

from diffsight.backbones.clip import ClipVision
from diffsight.backbones.concept_maps import ConceptRequest
from diffsight.backbones.stable_diffusion import StableDiffusion
from diffsight.backbones.vision import PatchTokens

__all__ = ["ClipVision", "ConceptRequest", "PatchTokens", "StableDiffusion"]
