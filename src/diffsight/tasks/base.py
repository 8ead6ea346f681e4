"""A task knows what the numbers of a map mean, and nothing about the architecture."""

import abc
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float, UInt8
from torch import Tensor

from diffsight.config import Configurable
from diffsight.types import RawOutput, Target


class AbstractTask(Configurable, abc.ABC):
    """Loss, decoding, drawing and the meaning of a flip.

    Attributes:
        label: key of ``Sample.labels`` that this task learns.
        num_outputs: channels that a method must give.
        asks: whether a prompt is part of the question, as a sentence is for its mask.
    """

    label: str
    num_outputs: int
    asks: bool = False

    @abc.abstractmethod
    def loss(self, raw: RawOutput, target: Target) -> dict[str, Tensor]:
        """Scalars by name; ``loss`` is the one to minimise."""

    @abc.abstractmethod
    def hflip(self, raw: RawOutput) -> RawOutput:
        """The output for the mirrored image, given that of the image, and the other way round."""

    def compact(self, raw: RawOutput) -> RawOutput:
        """The same with as few maps as ``decode`` needs, each a linear function of those of
        ``raw``: it may be resized instead of them. Those themselves, if they are few.
        """
        return raw

    @abc.abstractmethod
    def decode(self, raw: RawOutput) -> Sequence[Any]:
        """One prediction per image, in the units of the task."""

    @abc.abstractmethod
    def draw(self, prediction: Any) -> UInt8[Tensor, "3 h w"]:
        """A colour picture of a prediction."""

    @abc.abstractmethod
    def truth(self, target: Target) -> Sequence[Any]:
        """The labels as perfect predictions, one per image, to draw or to compare with."""

    @abc.abstractmethod
    def panel(
        self, image: Float[Tensor, "3 h w"], truth: Any, prediction: Any
    ) -> UInt8[Tensor, "3 h w4"]:
        """Image | truth | prediction | error side by side, on one scale; the image is in [0, 1]."""
