"""Heads, which turn a feature pyramid into the output of a method, and the label codebook."""

from diffsight.heads.codebook import Codebook
from diffsight.heads.deconv import DeconvHead
from diffsight.heads.heatmap import HeatmapHead
from diffsight.heads.metric_bins import MetricBins
from diffsight.heads.referring import ReferringDecoder
from diffsight.heads.semantic_fpn import SemanticFPN
from diffsight.heads.uper import UPerHead

__all__ = [
    "Codebook",
    "DeconvHead",
    "HeatmapHead",
    "MetricBins",
    "ReferringDecoder",
    "SemanticFPN",
    "UPerHead",
]
