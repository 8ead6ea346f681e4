"""The contract of heads: a pyramid in, one map out."""

import abc
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import nn

from diffsight.config import Configurable
from diffsight.types import Pyramid, RawOutput


class AbstractHead(nn.Module, Configurable, abc.ABC):
    """Turns a pyramid into a map at the resolution of the padded image."""

    @abc.abstractmethod
    def forward(self, pyramid: Pyramid) -> RawOutput:
        """The map, ``b num_outputs h w``."""


@runtime_checkable
class HeadBuilder(Protocol):
    """Makes a head for given inputs; always called with keywords."""

    def __call__(
        self, *, in_channels: Sequence[int], strides: Sequence[int], num_outputs: int
    ) -> AbstractHead:
        """A head for a pyramid with these channels and strides, finest first."""
        ...
