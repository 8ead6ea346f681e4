"""The base class of label codecs, which turn label values into classes and back.

A codec makes every dense task a classification (few_shot, section 3.2). It assigns classes, which
have a centre value each, to the labels. A predicted distribution over the classes becomes a value
again as the expected value of the centres.
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
    """The classes of a label map: one class per pixel, or a few weighted classes.

    Attributes:
        ids: class numbers from 0; there are ``s`` per pixel.
        weights: weights of these classes; they sum to 1 over the ``s`` classes of a pixel.
    """

    ids: Int[Tensor, "b s h w"]
    weights: Float[Tensor, "b s h w"]

    @classmethod
    def hard(cls, ids: Int[Tensor, "b h w"]) -> "SoftLabels":
        """Return soft labels with one class per pixel and a weight of 1."""
        return cls(ids[:, None], torch.ones(ids[:, None].shape, device=ids.device))

    def at(self, pixels: PixelGrid) -> "SoftLabels":
        """Return the labels of the given rows and columns."""
        rows, columns = pixels
        return SoftLabels(self.ids[..., rows, columns], self.weights[..., rows, columns])

    def distribution(self, classes: int) -> Float[Tensor, "b n h w"]:
        """Return the labels as probabilities of all classes.

        Args:
            classes: number of classes.
        """
        b, _, h, w = self.ids.shape
        return self.weights.new_zeros(b, classes, h, w).scatter_add_(1, self.ids, self.weights)


class LabelCodec(nn.Module, abc.ABC):
    """Base class of label codecs: classes that have a centre value each.

    A codec is fitted to the labels of a training set. Its values are in buffers, which are NaN
    until the codec is fitted or loaded.

    Args:
        channels: number of channels of a label.

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
        """Set ``label_mean`` and ``label_std`` in place, and return the codec.

        Args:
            values: labels of all valid pixels of the training set.
        """
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
        """Return labels as soft labels.

        Args:
            label: finite values in the unit of the task.
        """

    def intervals(self) -> list[tuple[float, float]]:
        """Return lower and upper edge of each class; empty if the classes are not intervals."""
        return []

    @abc.abstractmethod
    def names(self, unit: str) -> list[str]:
        """Return a name for each class in charts, such as the edges of its bin.

        Args:
            unit: unit of the labels, which is part of the names.
        """


def expectation(
    probability: Float[Tensor, "b n h w"], centres: Float[Tensor, "#b n d"]
) -> Float[Tensor, "b d h w"]:
    """Return the expected value: the sum over the classes of probability times value.

    It is computed in float32 or better, also under autocast, because bfloat16 has only 8
    significant bits.

    Args:
        probability: probability of every class.
        centres: value of every class, for all images (``1 n d``) or for each image.
    """
    dtype = torch.promote_types(torch.promote_types(probability.dtype, centres.dtype), torch.float)
    values = centres.expand(probability.shape[0], -1, -1).to(dtype)
    with without_autocast(probability):
        return torch.einsum("bnhw,bnd->bdhw", probability.to(dtype), values)
