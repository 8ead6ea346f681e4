"""Metrics: torchmetrics classes that sum over a data set, masked by ``valid``."""

from diffsight.metrics.depth import DepthMetrics

__all__ = ["DepthMetrics"]
