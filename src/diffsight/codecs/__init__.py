"""Codecs, which turn labels into classes and back: bins of scalars, a codebook of vectors."""

from diffsight.codecs.scalar import ScalarBins
from diffsight.codecs.vector import VectorCodebook

__all__ = ["ScalarBins", "VectorCodebook"]
