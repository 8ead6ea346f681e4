"""Pyramid to map."""

from diffsight.heads.codebook import Codebook
from diffsight.heads.deconv import DeconvHead
from diffsight.heads.semantic_fpn import SemanticFPN

__all__ = ["Codebook", "DeconvHead", "SemanticFPN"]
