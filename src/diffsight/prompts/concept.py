"""``Concepts``: trainable vectors that replace the tokens of a text (few_shot, section 3.3)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsight.config import Configurable


class Concepts(nn.Module, Configurable):
    """One trainable vector per class, without tokens for begin, end or padding.

    Args:
        count: number of classes.
        dim: width of the UNet's condition.
        std: standard deviation of the random initial values. The first gradients are small for any
            value: train with an optimiser that scales them (Adam).
    """

    def __init__(self, count: int, *, dim: int, std: float = 1.0) -> None:
        super().__init__()
        self.rows = nn.Parameter(std * torch.randn(count, dim))

    def forward(self, batch: int) -> Float[Tensor, "b n e"]:
        """Return the same vectors for each of ``batch`` images."""
        return self.rows.expand(batch, -1, -1)
