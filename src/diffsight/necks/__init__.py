"""Pyramid to pyramid."""

from diffsight.necks.merging import Merging

__all__ = ["Merging"]
