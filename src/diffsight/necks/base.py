"""The contract of necks: a pyramid in, a pyramid out."""

import abc
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import nn

from diffsight.config import Configurable
from diffsight.types import Pyramid


class AbstractNeck(nn.Module, Configurable, abc.ABC):
    """Turns one pyramid into another.

    Attributes:
        out_channels: channels of the levels that come out, finest first.
        out_strides: their strides in image pixels.
    """

    out_channels: tuple[int, ...]
    out_strides: tuple[int, ...]

    @abc.abstractmethod
    def forward(self, pyramid: Pyramid) -> Pyramid:
        """The new pyramid."""


@runtime_checkable
class NeckBuilder(Protocol):
    """Makes a neck for given inputs; always called with keywords."""

    def __call__(self, *, in_channels: Sequence[int], strides: Sequence[int]) -> AbstractNeck:
        """A neck for a pyramid with these channels and strides, finest first."""
        ...
