"""Labels as classes and back: discrete ids, bins of a scalar, words of a vector."""

from diffsight.codecs.base import AbstractCodec, Codes, expectation
from diffsight.codecs.discrete import Discrete
from diffsight.codecs.scalar import ScalarBins
from diffsight.codecs.store import from_state
from diffsight.codecs.vector import VectorWords

__all__ = [
    "AbstractCodec",
    "Codes",
    "Discrete",
    "ScalarBins",
    "VectorWords",
    "expectation",
    "from_state",
]
