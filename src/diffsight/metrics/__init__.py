"""Metrics: torchmetrics classes that accumulate sums over the valid pixels of a data set."""

from diffsight.metrics.depth import DepthMetrics
from diffsight.metrics.few_shot import AngleErrors, BinaryIoU, ClassIoU, ValueErrors
from diffsight.metrics.referring import MaskMetrics

__all__ = [
    "AngleErrors",
    "BinaryIoU",
    "ClassIoU",
    "DepthMetrics",
    "MaskMetrics",
    "ValueErrors",
    "larger_is_better",
]

_SCORES = ("iou", "miou", "oiou", "macc", "aacc", "d1", "d2", "d3")


def larger_is_better(name: str) -> bool:
    """Return whether a metric is a score, such as an accuracy, and not an error or a loss.

    Args:
        name: name of the metric as ``compute`` returns it.
    """
    return name in _SCORES or name.startswith(("p@", "below_"))
