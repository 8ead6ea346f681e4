"""Necks: modules between backbone and head, which turn a feature pyramid into another one."""

from diffsight.necks.fpn import FPN
from diffsight.necks.imafr import IMAFR
from diffsight.necks.merging import Merging
from diffsight.necks.rearrangement import Fused, PerLevel
from diffsight.necks.stride_four import NormalisedFPN

__all__ = ["FPN", "IMAFR", "Fused", "Merging", "NormalisedFPN", "PerLevel"]
