"""Pyramid to map."""

from diffsight.heads.deconv import DeconvHead

__all__ = ["DeconvHead"]
