"""What the metrics have in common: sums over a data set."""

import torch
from jaxtyping import Float64
from torch import Tensor
from torchmetrics import Metric


class SumMetric(Metric):
    """Sums over a data set in 64 bit, from which ``compute`` makes the measures.

    Args:
        shape: of the sums.
    """

    full_state_update = False
    sums: Float64[Tensor, "..."]

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
