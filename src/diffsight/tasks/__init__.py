"""Tasks: what the numbers of a map mean."""

from diffsight.tasks.base import AbstractTask
from diffsight.tasks.classes import Classes
from diffsight.tasks.dense import AbstractDense
from diffsight.tasks.depth import MetricDepth
from diffsight.tasks.directions import Directions
from diffsight.tasks.referring import Referring
from diffsight.tasks.semantic import Semantic
from diffsight.tasks.values import Scalars, Vectors

__all__ = [
    "AbstractDense",
    "AbstractTask",
    "Classes",
    "Directions",
    "MetricDepth",
    "Referring",
    "Scalars",
    "Semantic",
    "Vectors",
]
