"""Concepts: learned vectors in the place of a text's tokens (few_shot, section 3.3)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsight.config import Configurable


class Concepts(nn.Module, Configurable):
    """One vector per class; no begin, no end, no padding beside them.

    Args:
        count: classes.
        dim: width of the UNet's condition.
        std: of the random start. A small gradient reaches the vectors at first, whatever it is:
            train with an optimiser that does not mind (Adam).
    """

    def __init__(self, count: int, *, dim: int, std: float = 1.0) -> None:
        super().__init__()
        self.rows = nn.Parameter(std * torch.randn(count, dim))

    def forward(self, batch: int) -> Float[Tensor, "b n e"]:
        """The same vectors for every image."""
        return self.rows.expand(batch, -1, -1)
