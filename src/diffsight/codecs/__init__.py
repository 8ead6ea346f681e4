"""Labels as classes and back: bins of a scalar, a codebook of vectors."""

from diffsight.codecs.scalar import ScalarBins
from diffsight.codecs.vector import VectorCodebook

__all__ = ["ScalarBins", "VectorCodebook"]
