"""The kinds of output of a method, and how each is resized, mirrored and averaged over views.

A view is a window, a mirrored copy or a resized copy of an image.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.outputs.codec import expectation
from diffsight.types import Record

MIN_PROBABILITY = 1e-8  # smaller probabilities are raised to this before the logarithm


@dataclass(frozen=True)
class Output(Record, abc.ABC):
    """Base class of the output of a method for a batch; the task turns it into predictions."""

    @classmethod
    def expect(cls, output: "Output") -> Self:
        """Return ``output`` after a check that it is an instance of this class.

        Raises:
            TypeError: if it is an output of another kind.
        """
        if not isinstance(output, cls):
            raise TypeError(f"expected {cls.__name__}, got {type(output).__name__}")
        return output

    @property
    @abc.abstractmethod
    def stack(self) -> Float[Tensor, "b c h w"]:
        """All maps that are averaged over views, stacked along the channels, in float32."""

    @abc.abstractmethod
    def with_stack(self, stack: Float[Tensor, "b c h w"]) -> Self:
        """Return an output of the same kind with other maps.

        Args:
            stack: maps in the order of ``stack``; they may have another height and width.
        """

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width of the maps."""
        height, width = self.stack.shape[-2:]
        return height, width

    def mirrored(self) -> Self:
        """Return the output with its maps mirrored from left to right; values do not change."""
        return self.with_stack(self.stack.flip(-1))

    def reduced(self) -> "Output":
        """Return an output with fewer maps, which can still be averaged and resized.

        By default it is this output.
        """
        return self

    def normalised(self) -> "Output":
        """Return the output with probabilities instead of logits, to average it over scales."""
        return self

    def class_probabilities(self) -> Float[Tensor, "b n h w"] | None:
        """Return the probability of every class; None for outputs without classes."""
        return None

    def with_std(self, std: Float[Tensor, "b c h w"]) -> Self:
        """Return the output with the standard deviation of its maps over several views.

        Kinds of output that do not store it return themselves.
        """
        return self

    @abc.abstractmethod
    def maps_by_name(self) -> dict[str, Float[Tensor, "b _ h w"]]:
        """Return the maps that other programs read, by name, such as ``values`` and ``std``."""

    def cropped(self, height: int, width: int) -> Self:
        """Return the output with the top-left ``height`` x ``width`` pixels of its maps."""
        return self._map(lambda tensor: tensor[..., :height, :width])

    def row(self, index: int) -> Self:
        """Return the output of one image, as a batch of one."""
        return self._map(lambda tensor: tensor[index : index + 1])

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        return super()._map(lambda tensor: change(tensor) if tensor.ndim == 4 else tensor)


@dataclass(frozen=True)
class Values(Output):
    """Values per pixel in the unit of the task.

    Attributes:
        maps: the values.
        std: standard deviation over the views (windows, flips) of an image; NaN at pixels with
            fewer than two views. It is set by ``inference``, never by a method.
    """

    maps: Float[Tensor, "b d h w"]
    std: Float[Tensor, "b d h w"] | None = None

    @property
    def stack(self) -> Float[Tensor, "b d h w"]:
        """The values in float32."""
        return self.maps.float()

    def with_stack(self, stack: Float[Tensor, "b d h w"]) -> "Values":
        """Return an output with these values."""
        return Values(stack)

    def with_std(self, std: Float[Tensor, "b d h w"]) -> "Values":
        """Return the values with their standard deviation over the views."""
        return replace(self, std=std)

    def maps_by_name(self) -> dict[str, Float[Tensor, "b d h w"]]:
        """Return the ``values`` in the unit of the task."""
        return {"values": self.stack}


@dataclass(frozen=True)
class Classes(Output):
    """Logits or probabilities of mutually exclusive classes.

    Attributes:
        maps: one map per class.
        space: whether the maps are logits or probabilities.
        auxiliary: logits of an auxiliary head, used by the loss only.
        uncertainty: uncertainty that the method estimates, in [0, 1]; None: 1 minus the largest
            probability is used.
    """

    maps: Float[Tensor, "b k h w"]
    space: Literal["logits", "probabilities"] = "logits"
    auxiliary: Float[Tensor, "b k h w"] | None = None
    uncertainty: Float[Tensor, "b 1 h w"] | None = None

    @property
    def probabilities(self) -> Float[Tensor, "b k h w"]:
        """Probabilities in float32; they sum to 1 over the classes."""
        maps = self.maps.float()
        return maps.softmax(dim=1) if self.space == "logits" else maps

    @property
    def log_probabilities(self) -> Float[Tensor, "b k h w"]:
        """Logarithms of the probabilities in float32; maps of probabilities are clamped at 1e-8."""
        maps = self.maps.float()
        if self.space == "logits":
            return maps.log_softmax(dim=1)
        return maps.clamp(min=MIN_PROBABILITY).log()

    @property
    def stack(self) -> Float[Tensor, "b c h w"]:
        """The maps, then the uncertainty if there is one."""
        parts = [self.maps] if self.uncertainty is None else [self.maps, self.uncertainty]
        return torch.cat(parts, dim=1).float()

    def with_stack(self, stack: Float[Tensor, "b c h w"]) -> "Classes":
        """Return an output with these maps, as logits or probabilities like this output."""
        if self.uncertainty is None:
            return Classes(stack, self.space)
        return Classes(stack[:, :-1], self.space, uncertainty=stack[:, -1:])

    def class_probabilities(self) -> Float[Tensor, "b k h w"]:
        """Return the probabilities in float32."""
        return self.probabilities

    def normalised(self) -> "Classes":
        """Return the output as probabilities."""
        return Classes(self.probabilities, "probabilities", uncertainty=self.uncertainty)

    def maps_by_name(self) -> dict[str, Float[Tensor, "b _ h w"]]:
        """Return the ``probabilities``, and the ``uncertainty`` if the method estimates it."""
        return _probability_maps(self.probabilities, self.uncertainty)


@dataclass(frozen=True)
class Masks(Output):
    """Logits or probabilities of classes that may overlap.

    Attributes:
        maps: one map per class.
        space: whether the maps are logits or probabilities.
        uncertainty: uncertainty that the method estimates, in [0, 1]; None if it estimates none.
    """

    maps: Float[Tensor, "b k h w"]
    space: Literal["logits", "probabilities"] = "logits"
    uncertainty: Float[Tensor, "b 1 h w"] | None = None

    @property
    def probabilities(self) -> Float[Tensor, "b k h w"]:
        """Probabilities in float32; each class has its own, so they do not sum to 1."""
        maps = self.maps.float()
        return maps.sigmoid() if self.space == "logits" else maps

    @property
    def stack(self) -> Float[Tensor, "b c h w"]:
        """The maps, then the uncertainty if there is one."""
        parts = [self.maps] if self.uncertainty is None else [self.maps, self.uncertainty]
        return torch.cat(parts, dim=1).float()

    def with_stack(self, stack: Float[Tensor, "b c h w"]) -> "Masks":
        """Return an output with these maps, as logits or probabilities like this output."""
        if self.uncertainty is None:
            return Masks(stack, self.space)
        return Masks(stack[:, :-1], self.space, stack[:, -1:])

    def normalised(self) -> "Masks":
        """Return the output as probabilities."""
        return Masks(self.probabilities, "probabilities", self.uncertainty)

    def maps_by_name(self) -> dict[str, Float[Tensor, "b _ h w"]]:
        """Return the ``probabilities``, and the ``uncertainty`` if the method estimates it."""
        return _probability_maps(self.probabilities, self.uncertainty)


@dataclass(frozen=True)
class Distribution(Output):
    """A distribution over the classes of a label codec, which have a value each.

    Attributes:
        probability: probability of every class; sums to 1 over the classes.
        value: expected value in the unit of the task. The method computes it from class values that
            may depend on the image (a label codebook).
        centres: fixed values of the classes, from which the standard deviation is computed.
    """

    probability: Float[Tensor, "b n h w"]
    value: Float[Tensor, "b d h w"]
    centres: Float[Tensor, "n d"]

    @property
    def stack(self) -> Float[Tensor, "b c h w"]:
        """The probabilities, then the expected values."""
        return torch.cat([self.probability, self.value], dim=1).float()

    def with_stack(self, stack: Float[Tensor, "b c h w"]) -> "Distribution":
        """Return a distribution with these probabilities and expected values."""
        probability, value = stack.split([len(self.centres), self.centres.shape[1]], dim=1)
        return Distribution(probability, value, self.centres)

    def class_probabilities(self) -> Float[Tensor, "b n h w"]:
        """Return the probabilities in float32."""
        return self.probability.float()

    def reduced(self) -> "Moments":
        """Return the moments of the distribution: a few maps instead of one per class."""
        probability = self.probability.float()
        centres = self.centres.to(probability)
        origin = centres.mean(dim=0)
        shifted = centres - origin  # the variance of values far from 0 would be lost to rounding
        both = expectation(probability, torch.cat([shifted, shifted.square()], dim=1)[None])
        mean, square = both.chunk(2, dim=1)
        return Moments(self.value.float(), mean, square, origin)

    def maps_by_name(self) -> dict[str, Float[Tensor, "b _ h w"]]:
        """Return the maps of the moments."""
        return self.reduced().maps_by_name()


@dataclass(frozen=True)
class Heatmaps(Output):
    """Heatmaps of joints, with a peak of height 1 at the position of the joint.

    Attributes:
        maps: one map per joint.
        stride: image pixels per pixel of the maps.
    """

    maps: Float[Tensor, "b j h w"]
    stride: int

    @property
    def stack(self) -> Float[Tensor, "b j h w"]:
        """The maps in float32."""
        return self.maps.float()

    def with_stack(self, stack: Float[Tensor, "b j h w"]) -> "Heatmaps":
        """Return an output with these maps."""
        return Heatmaps(stack, self.stride)

    def cropped(self, height: int, width: int) -> "Heatmaps":
        """Return the maps of the top-left ``height`` x ``width`` pixels of the image."""
        return super().cropped(-(-height // self.stride), -(-width // self.stride))

    def maps_by_name(self) -> dict[str, Float[Tensor, "b j h w"]]:
        """Return the ``heatmaps``."""
        return {"heatmaps": self.stack}


@dataclass(frozen=True)
class Moments(Output):
    """The first two moments of a distribution over values, which can be averaged and resized.

    Attributes:
        value: expected value in the unit of the task.
        mean: mean of ``x - origin``, where ``x`` runs over the fixed class centres, or over the
            steps and seeds of a sampler.
        square: mean of ``(x - origin) ** 2``.
        origin: value that is subtracted for numerical precision.
    """

    value: Float[Tensor, "b d h w"]
    mean: Float[Tensor, "b d h w"]
    square: Float[Tensor, "b d h w"]
    origin: Float[Tensor, " d"]

    @property
    def stack(self) -> Float[Tensor, "b c h w"]:
        """Mean, mean square and expected value, in this order."""
        return torch.cat([self.mean, self.square, self.value], dim=1).float()

    def with_stack(self, stack: Float[Tensor, "b c h w"]) -> "Moments":
        """Return moments with these maps."""
        mean, square, value = stack.chunk(3, dim=1)
        return Moments(value, mean, square, self.origin)

    @property
    def std(self) -> Float[Tensor, "b h w"]:
        """Standard deviation; for several channels the root of the mean variance."""
        variance = (self.square - self.mean.square()).clamp(min=0)
        return variance.mean(dim=1).sqrt()

    def with_signs(self, signs: Float[Tensor, " d"]) -> "Moments":
        """Return the moments of ``signs * x``, such as those of mirrored normals.

        Args:
            signs: 1 or -1 for every channel.
        """
        signs, origin = (x.to(self.value)[:, None, None] for x in (signs, self.origin))
        flips = (1 - signs) / 2  # 1 for a channel whose sign changes: x - o becomes -(x - o) - 2 o
        mean = signs * self.mean - 2 * flips * origin
        square = self.square + 4 * flips * origin * (self.mean + origin)
        return Moments(signs * self.value, mean, square, self.origin)

    def maps_by_name(self) -> dict[str, Float[Tensor, "b _ h w"]]:
        """Return the expected ``values``, and their ``std``, both in the unit of the task."""
        return {"values": self.value.float(), "std": self.std[:, None]}


def _probability_maps(
    probabilities: Float[Tensor, "b k h w"], uncertainty: Float[Tensor, "b 1 h w"] | None
) -> dict[str, Float[Tensor, "b _ h w"]]:
    maps = {"probabilities": probabilities}
    return maps if uncertainty is None else {**maps, "uncertainty": uncertainty.float()}
