"""Metrics: torchmetrics classes that sum over a data set, masked by ``valid``."""

from diffsight.metrics.depth import DepthMetrics
from diffsight.metrics.few_shot import AngleErrors, BinaryIoU, ClassIoU, ValueErrors
from diffsight.metrics.referring import MaskMetrics

__all__ = ["AngleErrors", "BinaryIoU", "ClassIoU", "DepthMetrics", "MaskMetrics", "ValueErrors"]
