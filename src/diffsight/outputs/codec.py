"""The contract of label codecs: a label map becomes classes; a distribution over classes, a value.

Few-shot, section 3.2: every dense task is turned into classification, and the expected value of the
class centres turns the distribution back into a value.
"""

import abc
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffsight.ops.precision import without_autocast
from diffsight.types import PixelGrid


@dataclass(frozen=True)
class SoftLabels:
    """Classes of a label map: one per pixel, or a few with weights.

    Attributes:
        ids: classes from 0 on; ``s`` of them per pixel.
        weights: their weights, which sum to 1 over ``s``.
    """

    ids: Int[Tensor, "b s h w"]
    weights: Float[Tensor, "b s h w"]

    @classmethod
    def hard(cls, ids: Int[Tensor, "b h w"]) -> "SoftLabels":
        """Make labels with one class per pixel."""
        return cls(ids[:, None], torch.ones(ids[:, None].shape, device=ids.device))

    def at(self, pixels: PixelGrid) -> "SoftLabels":
        """Return the labels of some rows and columns."""
        rows, columns = pixels
        return SoftLabels(self.ids[..., rows, columns], self.weights[..., rows, columns])

    def distribution(self, classes: int) -> Float[Tensor, "b n h w"]:
        """Return the probability of every class."""
        b, _, h, w = self.ids.shape
        return self.weights.new_zeros(b, classes, h, w).scatter_add_(1, self.ids, self.weights)


class LabelCodec(nn.Module, abc.ABC):
    """Classes with a value each, fitted to the labels of a training set and kept in buffers.

    All buffers are NaN until the codec is fitted or loaded.

    Args:
        channels: of a label.

    Attributes:
        label_mean: mean of the labels per channel.
        label_std: standard deviation of the labels per channel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.label_mean: Tensor
        self.label_std: Tensor
        self.register_buffer("label_mean", torch.full((channels,), torch.nan))
        self.register_buffer("label_std", torch.full((channels,), torch.nan))

    def with_statistics(self, values: Float[Tensor, "m d"]) -> Self:
        """Set mean and standard deviation to those of the labels of valid pixels."""
        self.label_mean = values.mean(dim=0)
        self.label_std = values.std(dim=0).clamp(min=1e-12)
        return self

    @property
    def is_fitted(self) -> bool:
        """Whether the codec has been fitted or loaded."""
        return not bool(self.label_std.isnan().any())

    @property
    @abc.abstractmethod
    def num_classes(self) -> int:
        """Number of classes."""

    @property
    @abc.abstractmethod
    def centres(self) -> Float[Tensor, "n d"]:
        """Value of each class in the unit of the labels."""

    @abc.abstractmethod
    def encode(self, label: Float[Tensor, "b d h w"]) -> SoftLabels:
        """Return the classes of finite labels in the unit of the task."""

    def intervals(self) -> list[tuple[float, float]]:
        """Return the edges of every class; empty where the classes are no intervals."""
        return []

    @abc.abstractmethod
    def names(self, unit: str) -> list[str]:
        """Return a name of every class for charts, such as the edges of its bin."""


def expectation(
    probability: Float[Tensor, "b n h w"], centres: Float[Tensor, "#b n d"]
) -> Float[Tensor, "b d h w"]:
    """Return the expected value: probabilities of the classes times their values.

    In 32 bit at least, in mixed precision too: values in bfloat16 would have 8 bits.
    """
    dtype = torch.promote_types(torch.promote_types(probability.dtype, centres.dtype), torch.float)
    values = centres.expand(len(probability), -1, -1).to(dtype)
    with without_autocast(probability):
        return torch.einsum("bnhw,bnd->bdhw", probability.to(dtype), values)
