"""Codecs turn labels into classes and back: bins for scalars, a codebook for vectors."""

from diffsight.codecs.scalar import ScalarBins
from diffsight.codecs.vector import VectorCodebook

__all__ = ["ScalarBins", "VectorCodebook"]
