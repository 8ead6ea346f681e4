"""Metrics: torchmetrics classes that sum over a data set, masked by ``valid``."""

from diffsight.metrics.depth import DepthMetrics
from diffsight.metrics.few_shot import AngleErrors, BinaryIoU, ClassIoU, ValueErrors

__all__ = ["AngleErrors", "BinaryIoU", "ClassIoU", "DepthMetrics", "ValueErrors"]
