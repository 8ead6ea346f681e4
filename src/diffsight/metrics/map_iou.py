"""Intersection over union of maps with classes that may overlap, each at its best threshold."""

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torchmetrics import Metric

from diffsight.ops.map_counts import THRESHOLDS, best_iou, count_cells


class MapIoU(Metric):
    """``miou``: the mean over the classes, summed over a data set before anything is divided.

    Args:
        classes: their number.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        zeros = torch.zeros(len(THRESHOLDS), classes, 3, dtype=torch.float64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(
        self,
        probability: Float[Tensor, "b k x y"],
        label: Float[Tensor, "b k x y"],
        valid: Bool[Tensor, "b x y"],
    ) -> None:
        """Add a batch."""
        self.counts = self.counts + count_cells(probability, label, valid).to(self.counts.device)

    def compute(self) -> dict[str, Tensor]:
        """Return ``miou``, in [0, 1]."""
        return {"miou": best_iou(self.counts).mean()}

    def per_class(self) -> Float64[Tensor, " k"]:
        """Return that of every class."""
        return best_iou(self.counts)
