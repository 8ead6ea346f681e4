"""The label codebook: what a task's classes are worth in an image (few_shot, section 3.4)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsight.errors import InputError

JITTER = 0.01  # of the rows at the start, in standard deviations: equal ones would never part


class Codebook(nn.Module):
    """``size`` tables of class values, mixed by what an image looks like.

    F = softmax(W clip(x)); C = sum_k F_k C_k. Values are learned in units of the labels' standard
    deviation, so that one learning rate fits every task.

    Args:
        centres: value of every class, from the support's labels; the start of every table.
        scale: standard deviation of the labels, per channel.
        size: tables: 0 keeps ``centres``, 1 learns one table for all images, more need features.
        features: width of the image features; only for more than one table.
    """

    def __init__(
        self,
        centres: Float[Tensor, "n d"],
        scale: Float[Tensor, " d"],
        *,
        size: int = 10,
        features: int | None = None,
    ) -> None:
        super().__init__()
        if size > 1 and features is None:
            raise InputError(f"a codebook of {size} tables needs image features: give their width")
        self.size = size
        self.centres: Tensor
        self.scale: Tensor
        self.register_buffer("centres", centres.clone())
        self.register_buffer("scale", scale.clone())
        if size:
            start = (centres / scale).expand(size, -1, -1)
            self.tables = nn.Parameter(start + JITTER * torch.randn(start.shape))
        if size > 1:
            assert features is not None
            self.mix = nn.Linear(features, size, bias=False)
            nn.init.normal_(self.mix.weight, std=features**-0.5)

    def forward(self, features: Float[Tensor, "b f"] | None, batch: int) -> Float[Tensor, "b n d"]:
        """Class values for every image, in the unit of the labels, in 32 bit.

        Args:
            features: of the images, of mean square 1; ignored by 0 and 1 tables.
            batch: images.
        """
        if self.size == 0:
            return self.centres.expand(batch, -1, -1)
        if self.size == 1:
            return (self.tables * self.scale).expand(batch, -1, -1)
        assert features is not None
        with torch.autocast(features.device.type, enabled=False):
            return torch.einsum("bk,knd->bnd", self.shares(features), self.tables) * self.scale

    def shares(self, features: Float[Tensor, "b f"]) -> Float[Tensor, "b k"]:
        """How much each of several tables counts in an image; they sum to 1."""
        return self.mix(features.to(self.mix.weight)).softmax(dim=1)
