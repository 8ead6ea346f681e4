"""The interface of heads, which turn a feature pyramid into the output of a method."""

import abc
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diffsight.config import Configurable
from diffsight.errors import InputError
from diffsight.ops.precision import without_autocast
from diffsight.outputs import Classes, Output, OutputSpec, Values
from diffsight.types import Maps, Pyramid


class AbstractHead(nn.Module, Configurable, abc.ABC):
    """Base class of heads, which turn a feature pyramid into the output of a method.

    The output has the resolution of the padded image, except for heatmaps. A head does not run in
    mixed precision: in bfloat16, depths near 5 m would be 3 cm apart.

    Attributes:
        resizes_output: whether the output is resized to the size that the pyramid covers. Otherwise
            the maps must have exactly ``1 / stride`` of the padded image's size.
    """

    resizes_output: ClassVar[bool] = False

    def __call__(self, pyramid: Pyramid) -> Output:
        """Return ``forward`` of the pyramid, computed in the precision of the weights."""
        weight = next(self.parameters(), pyramid.features[0])
        features = tuple(feature.to(weight.dtype) for feature in pyramid.features)
        with without_autocast(weight):
            return super().__call__(replace(pyramid, features=features))

    @abc.abstractmethod
    def forward(self, pyramid: Pyramid) -> Output:
        """Return the output for a feature pyramid."""


@runtime_checkable
class HeadBuilder(Protocol):
    """A function that builds a head; called with keyword arguments only."""

    def __call__(
        self, *, in_channels: Sequence[int], strides: Sequence[int], output: OutputSpec
    ) -> AbstractHead:
        """Return a head for a pyramid with these channels and strides, finest first."""
        ...


def resize_aligned(x: Float[Tensor, "b c _ _"], hw: Sequence[int]) -> Float[Tensor, "b c h w"]:
    """Return maps at another size (bilinear, aligned corners), as in the authors' code."""
    return functional.interpolate(x, tuple(hw), mode="bilinear", align_corners=True)


def require_maps(head: str, output: OutputSpec) -> None:
    """Refuse heatmaps and distributions, for a head that gives one map per channel.

    Args:
        head: name of the head in messages.
        output: output that the task needs.

    Raises:
        InputError: for heatmaps, or a distribution over the classes of a codec.
    """
    if output.kind == "heatmaps":
        raise InputError(f"{head} gives values or classes, not heatmaps: choose HeatmapHead")
    if output.kind == "distribution":
        raise InputError(
            f"{head} gives values or classes, not {output.describe()}: choose FewShot, FeatureHead "
            "or LinearProbe, or a task without bins"
        )


def to_output(spec: OutputSpec, maps: Maps) -> Output:
    """Return the maps of a network as class logits or as values in the unit of the task.

    Values with bounds pass through a sigmoid that is scaled to the bounds. Values without bounds
    are multiplied by the standard deviation of the training labels, and the mean of these labels
    is added, if ``spec`` has a codec, which stores both numbers.
    """
    if spec.kind == "classes":
        return Classes(maps)
    if spec.bounds is not None:
        low, high = spec.bounds
        return Values(torch.sigmoid(maps) * (high - low) + low)
    if spec.codec is None:
        return Values(maps)
    mean, std = (x.to(maps)[:, None, None] for x in (spec.codec.label_mean, spec.codec.label_std))
    return Values(mean + std * maps)
