"""Outputs of methods: their kinds, the specification that a task gives, and label codecs."""

from diffsight.outputs.codec import LabelCodec, SoftLabels, expectation
from diffsight.outputs.kinds import Classes, Distribution, Heatmaps, Masks, Moments, Output, Values
from diffsight.outputs.spec import Kind, OutputSpec

__all__ = [
    "Classes",
    "Distribution",
    "Heatmaps",
    "Kind",
    "LabelCodec",
    "Masks",
    "Moments",
    "Output",
    "OutputSpec",
    "SoftLabels",
    "Values",
    "expectation",
]
