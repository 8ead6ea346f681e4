"""The kinds of output. Each knows how it is resized, mirrored and averaged over views."""

import abc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.outputs.codec import expectation
from diffsight.types import Record

MIN_PROBABILITY = 1e-8  # whose logarithm is taken


@dataclass(frozen=True)
class Output(Record, abc.ABC):
    """What a method computes for a batch, before the task gives it a meaning."""

    @classmethod
    def expect(cls, output: "Output") -> Self:
        """Return an output of this kind.

        Raises:
            TypeError: if it is of another kind.
        """
        if not isinstance(output, cls):
            raise TypeError(f"expected {cls.__name__}, got {type(output).__name__}")
        return output

    @property
    @abc.abstractmethod
    def stack(self) -> Float[Tensor, "b c h w"]:
        """All maps that are averaged over views, in 32 bit."""

    @abc.abstractmethod
    def with_stack(self, stack: Float[Tensor, "b c h w"]) -> Self:
        """Return the same kind of output with these maps, which may have another size."""

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width of the maps."""
        height, width = self.stack.shape[-2:]
        return height, width

    def mirrored(self) -> Self:
        """Return the maps mirrored from left to right; no value changes."""
        return self.with_stack(self.stack.flip(-1))

    def reduced(self) -> "Output":
        """Return what has to be averaged and resized, if that is less than the output itself."""
        return self

    def normalised(self) -> "Output":
        """Return what may be averaged over scales: probabilities instead of logits."""
        return self

    def class_probabilities(self) -> Float[Tensor, "b n h w"] | None:
        """Return the probability of every class; None for outputs without classes."""
        return None

    def with_std(self, std: Float[Tensor, "b c h w"]) -> Self:
        """Return the output with the standard deviation of its maps over several views."""
        return self

    def cropped(self, height: int, width: int) -> Self:
        """Return the top-left part of the maps."""
        return self._map(lambda tensor: tensor[..., :height, :width])

    def row(self, index: int) -> Self:
        """Return one image, as a batch of one."""
        return self._map(lambda tensor: tensor[index : index + 1])

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        return super()._map(lambda tensor: change(tensor) if tensor.ndim == 4 else tensor)


@dataclass(frozen=True)
class Values(Output):
    """Numbers per pixel, in the unit of the task.

    Attributes:
        maps: the numbers.
        std: standard deviation over the views of a plan (windows, flips); NaN where fewer than two
            views were. Set by ``inference``, never by a method.
    """

    maps: Float[Tensor, "b d h w"]
    std: Float[Tensor, "b d h w"] | None = None

    @property
    def stack(self) -> Float[Tensor, "b d h w"]:
        """The numbers."""
        return self.maps.float()

    def with_stack(self, stack: Float[Tensor, "b d h w"]) -> "Values":
        """Return these numbers."""
        return Values(stack)

    def with_std(self, std: Float[Tensor, "b d h w"]) -> "Values":
        """Return the numbers with their standard deviation."""
        return replace(self, std=std)


@dataclass(frozen=True)
class Classes(Output):
    """Logits or probabilities of classes.

    Attributes:
        maps: one per class.
        space: what the maps are.
        auxiliary: logits of a second head, for the loss alone.
        uncertainty: the method's own, in [0, 1]; None: 1 minus the largest probability stands for
            it.
    """

    maps: Float[Tensor, "b k h w"]
    space: Literal["logits", "probabilities"] = "logits"
    auxiliary: Float[Tensor, "b k h w"] | None = None
    uncertainty: Float[Tensor, "b 1 h w"] | None = None

    @property
    def probabilities(self) -> Float[Tensor, "b k h w"]:
        """Probabilities in 32 bit; they sum to 1."""
        maps = self.maps.float()
        return maps.softmax(dim=1) if self.space == "logits" else maps

    @property
    def log_probabilities(self) -> Float[Tensor, "b k h w"]:
        """Logarithms of the probabilities in 32 bit; of probabilities below 1e-8 that of 1e-8."""
        maps = self.maps.float()
        if self.space == "logits":
            return maps.log_softmax(dim=1)
        return maps.clamp(min=MIN_PROBABILITY).log()

    @property
    def stack(self) -> Float[Tensor, "b c h w"]:
        """The maps, and the uncertainty where there is one."""
        parts = [self.maps] if self.uncertainty is None else [self.maps, self.uncertainty]
        return torch.cat(parts, dim=1).float()

    def with_stack(self, stack: Float[Tensor, "b c h w"]) -> "Classes":
        """Return these maps in the same space."""
        if self.uncertainty is None:
            return Classes(stack, self.space)
        return Classes(stack[:, :-1], self.space, uncertainty=stack[:, -1:])

    def class_probabilities(self) -> Float[Tensor, "b k h w"]:
        """Return the probabilities."""
        return self.probabilities

    def normalised(self) -> "Classes":
        """Return the probabilities."""
        return Classes(self.probabilities, "probabilities", uncertainty=self.uncertainty)


@dataclass(frozen=True)
class Masks(Output):
    """Logits or probabilities of classes that may overlap.

    Attributes:
        maps: one per class.
        space: what the maps are.
        uncertainty: in [0, 1], of a method that gives one.
    """

    maps: Float[Tensor, "b k h w"]
    space: Literal["logits", "probabilities"] = "logits"
    uncertainty: Float[Tensor, "b 1 h w"] | None = None

    @property
    def probabilities(self) -> Float[Tensor, "b k h w"]:
        """Probabilities in 32 bit, of each class by itself."""
        maps = self.maps.float()
        return maps.sigmoid() if self.space == "logits" else maps

    @property
    def stack(self) -> Float[Tensor, "b c h w"]:
        """The maps, and the uncertainty where there is one."""
        parts = [self.maps] if self.uncertainty is None else [self.maps, self.uncertainty]
        return torch.cat(parts, dim=1).float()

    def with_stack(self, stack: Float[Tensor, "b c h w"]) -> "Masks":
        """Return these maps in the same space."""
        if self.uncertainty is None:
            return Masks(stack, self.space)
        return Masks(stack[:, :-1], self.space, stack[:, -1:])

    def normalised(self) -> "Masks":
        """Return the probabilities."""
        return Masks(self.probabilities, "probabilities", self.uncertainty)


@dataclass(frozen=True)
class Distribution(Output):
    """A distribution over classes that have values.

    Attributes:
        probability: of every class; sums to 1.
        value: the expected value in the unit of the task, by the method's own values of the
            classes, which may depend on the image.
        centres: fixed values of the classes, for the standard deviation.
    """

    probability: Float[Tensor, "b n h w"]
    value: Float[Tensor, "b d h w"]
    centres: Float[Tensor, "n d"]

    @property
    def stack(self) -> Float[Tensor, "b c h w"]:
        """Probabilities and expected values."""
        return torch.cat([self.probability, self.value], dim=1).float()

    def with_stack(self, stack: Float[Tensor, "b c h w"]) -> "Distribution":
        """Split the maps again."""
        probability, value = stack.split([len(self.centres), self.centres.shape[1]], dim=1)
        return Distribution(probability, value, self.centres)

    def class_probabilities(self) -> Float[Tensor, "b n h w"]:
        """Return the probabilities."""
        return self.probability.float()

    def reduced(self) -> "Moments":
        """Return expected value, mean and mean square: a few maps instead of one per class."""
        probability = self.probability.float()
        centres = self.centres.to(probability)
        origin = centres.mean(dim=0)
        shifted = centres - origin  # the squares of values far from 0 would cancel
        both = expectation(probability, torch.cat([shifted, shifted.square()], dim=1)[None])
        mean, square = both.chunk(2, dim=1)
        return Moments(self.value.float(), mean, square, origin)


@dataclass(frozen=True)
class Heatmaps(Output):
    """A map for every joint, with a peak of height 1 where the joint is.

    Attributes:
        maps: one per joint.
        stride: pixels of the image for each of theirs.
    """

    maps: Float[Tensor, "b j h w"]
    stride: int

    @property
    def stack(self) -> Float[Tensor, "b j h w"]:
        """The maps."""
        return self.maps.float()

    def with_stack(self, stack: Float[Tensor, "b j h w"]) -> "Heatmaps":
        """Return these maps."""
        return Heatmaps(stack, self.stride)

    def cropped(self, height: int, width: int) -> "Heatmaps":
        """Return the part that covers the top-left ``height`` x ``width`` pixels of the image."""
        return super().cropped(-(-height // self.stride), -(-width // self.stride))


@dataclass(frozen=True)
class Moments(Output):
    """A distribution over values, reduced to its moments, which may be averaged and resized.

    Attributes:
        value: expected value in the unit of the task.
        mean: mean of the distribution (over classes with fixed centres, or over the steps and seeds
            of a sampler), minus ``origin``.
        square: mean of the squares of the same.
        origin: what the centres are counted from.
    """

    value: Float[Tensor, "b d h w"]
    mean: Float[Tensor, "b d h w"]
    square: Float[Tensor, "b d h w"]
    origin: Float[Tensor, " d"]

    @property
    def stack(self) -> Float[Tensor, "b c h w"]:
        """All three, one after another."""
        return torch.cat([self.mean, self.square, self.value], dim=1).float()

    def with_stack(self, stack: Float[Tensor, "b c h w"]) -> "Moments":
        """Split the maps again."""
        mean, square, value = stack.chunk(3, dim=1)
        return Moments(value, mean, square, self.origin)

    @property
    def std(self) -> Float[Tensor, "b h w"]:
        """Standard deviation; root mean square over the channels."""
        variance = (self.square - self.mean.square()).clamp(min=0)
        return variance.mean(dim=1).sqrt()

    def with_signs(self, signs: Float[Tensor, " d"]) -> "Moments":
        """Return the distribution of ``signs * x``; each sign is 1 or -1."""
        signs, origin = (x.to(self.value)[:, None, None] for x in (signs, self.origin))
        flips = (1 - signs) / 2  # 1 for a channel whose sign changes: x - o becomes -(x - o) - 2 o
        mean = signs * self.mean - 2 * flips * origin
        square = self.square + 4 * flips * origin * (self.mean + origin)
        return Moments(signs * self.value, mean, square, self.origin)
