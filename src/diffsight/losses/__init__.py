"""Losses: (prediction, target, valid) to a scalar."""

from diffsight.losses.silog import silog

__all__ = ["silog"]
