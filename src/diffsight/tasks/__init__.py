"""Tasks: what the numbers of a map mean."""

from diffsight.tasks.base import AbstractTask
from diffsight.tasks.depth import MetricDepth

__all__ = ["AbstractTask", "MetricDepth"]
