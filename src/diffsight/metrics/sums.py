"""The base class of metrics that are computed from sums over a data set."""

import torch
from jaxtyping import Float64
from torch import Tensor
from torchmetrics import Metric


class SumMetric(Metric):
    """Base class of metrics with one state: ``sums`` in float64, added over batches and processes.

    Args:
        shape: shape of the sums.
    """

    full_state_update = False
    sums: Float64[Tensor, "..."]

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
