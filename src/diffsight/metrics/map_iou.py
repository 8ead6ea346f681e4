"""Intersection over union of bird's-eye-view maps, whose classes may overlap."""

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torchmetrics import Metric

from diffsight.ops.map_counts import THRESHOLDS, best_iou, count_cells


class MapIoU(Metric):
    """Mean IoU over the classes of a map, each at its best probability threshold (BEVFusion).

    Intersections and unions are summed over the data set before they are divided.

    Args:
        classes: number of classes.
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
        """Add a batch.

        Args:
            probability: probability of every class in every cell.
            label: 1 in the cells of a class, 0 elsewhere.
            valid: cells that count.
        """
        self.counts = self.counts + count_cells(probability, label, valid).to(self.counts.device)

    def compute(self) -> dict[str, Tensor]:
        """Return ``miou``, in [0, 1]."""
        return {"miou": best_iou(self.counts).mean()}

    def per_class(self) -> Float64[Tensor, " k"]:
        """Return the IoU of every class, in [0, 1]."""
        return best_iou(self.counts)
