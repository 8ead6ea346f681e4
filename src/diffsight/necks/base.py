"""The interface of necks, which turn a feature pyramid into another one."""

import abc
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import nn

from diffsight.config import Configurable
from diffsight.types import Pyramid


class AbstractNeck(nn.Module, Configurable, abc.ABC):
    """Base class of necks, which turn a feature pyramid into another one.

    Attributes:
        out_channels: channels of the output levels, finest first.
        out_strides: strides of the output levels, in image pixels.
    """

    out_channels: tuple[int, ...]
    out_strides: tuple[int, ...]

    @abc.abstractmethod
    def forward(self, pyramid: Pyramid) -> Pyramid:
        """Return the new pyramid."""


@runtime_checkable
class NeckBuilder(Protocol):
    """A function that builds a neck; called with keyword arguments only."""

    def __call__(self, *, in_channels: Sequence[int], strides: Sequence[int]) -> AbstractNeck:
        """Return a neck for a pyramid with these channels and strides, finest first."""
        ...
