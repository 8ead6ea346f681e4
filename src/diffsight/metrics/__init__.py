"""Metrics: torchmetrics classes that accumulate sums over the valid pixels of a data set."""

import re

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

_SCORES = re.compile(
    r"(category_)?[mo]?iou(_vtm)?|[ma]acc|d[123]|a[pr](50|75|_medium|_large)?|p@.+|below_.+"
)


def larger_is_better(name: str) -> bool:
    """Return whether larger values of a metric are better, as of an accuracy; False for errors.

    Args:
        name: name of the metric as ``compute`` returns it.
    """
    return _SCORES.fullmatch(name) is not None
