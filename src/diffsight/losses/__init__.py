"""Losses: functions of prediction, target and valid mask that return a scalar."""

from diffsight.losses.boxes import partial_label_nll, projection_nll
from diffsight.losses.silog import silog

__all__ = ["partial_label_nll", "projection_nll", "silog"]
