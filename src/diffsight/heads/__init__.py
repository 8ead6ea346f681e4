"""Pyramid to map."""

from diffsight.heads.codebook import Codebook
from diffsight.heads.deconv import DeconvHead

__all__ = ["Codebook", "DeconvHead"]
