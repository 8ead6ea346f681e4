"""Diffusion of label maps (DDP): noise schedules, label encodings and the sampler."""

from diffsight.diffusion.encodings import (
    AbstractLabelEncoding,
    AnalogBits,
    ClassEmbedding,
    EncodingBuilder,
    MaskEmbedding,
    OneHot,
    ScalarMap,
    lowest_value,
)
from diffsight.diffusion.noise import (
    AbstractNoise,
    CosineNoise,
    LinearNoise,
    UnclampedCosineNoise,
)
from diffsight.diffusion.sampler import Sampler

__all__ = [
    "AbstractLabelEncoding",
    "AbstractNoise",
    "AnalogBits",
    "ClassEmbedding",
    "CosineNoise",
    "EncodingBuilder",
    "LinearNoise",
    "MaskEmbedding",
    "OneHot",
    "Sampler",
    "ScalarMap",
    "UnclampedCosineNoise",
    "lowest_value",
]
