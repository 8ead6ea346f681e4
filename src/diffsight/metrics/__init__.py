"""Metrics: torchmetrics classes that sum over a data set, masked by ``valid``."""

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

_SHARES = ("iou", "miou", "oiou", "macc", "aacc", "d1", "d2", "d3")


def larger_is_better(name: str) -> bool:
    """Whether a measure of this name is a share of what is right, not an error or a loss."""
    return name in _SHARES or name.startswith(("p@", "below_"))
