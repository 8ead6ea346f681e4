"""Pyramid to pyramid."""

from diffsight.necks.fpn import FPN
from diffsight.necks.imafr import IMAFR
from diffsight.necks.merging import Merging

__all__ = ["FPN", "IMAFR", "Merging"]
