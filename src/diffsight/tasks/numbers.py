"""The common base class of tasks with values per pixel: depth, normals and other values."""

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from diffsight.codecs import ScalarBins, VectorCodebook
from diffsight.codecs.scalar import Spacing
from diffsight.errors import InputError
from diffsight.outputs import (
    Distribution,
    LabelCodec,
    Moments,
    Output,
    OutputSpec,
    SoftLabels,
    Values,
)
from diffsight.tasks.base import (
    AbstractTask,
    LabelMaps,
    distribution_loss,
    masked_mean,
    unsupported,
)
from diffsight.tasks.prediction import Prediction, PredictionSet, StoredArray
from diffsight.types import ErrorKind, Map, Maps, Mask, Masks, PixelErrors, Target

# Smallest scale of an error, in standard deviations of the labels. In a trial with ten labelled
# rooms, 0.1 let a few pixels with a small predicted deviation make all intervals wide.
MIN_SCALE = 0.3
Bins = int | Literal["auto"]
"""A number of classes; ``auto`` is the task's default, or fewer if there are fewer labels."""


class AbstractNumbers(AbstractTask):
    """Values per pixel, predicted directly or as a distribution over fitted classes.

    A distribution is trained as in few_shot (equation 5): L = L_cls + alpha L_reg. L_reg is in
    units of the labels' standard deviation, so that alpha means the same for every task.

    Args:
        channels: number of values per pixel.
        label: key of ``Sample.labels``.
        bins: number of classes of a distribution: bins of a scalar, or vectors of a codebook. None
            supports an output of values only.
        default_bins: number of classes for ``bins="auto"``.
        alpha: weight of L_reg; infinity trains with L_reg alone (regression).
        bounds: lower and upper bound of values.
        spacing: spacing of a scalar's bins, see ``ScalarBins.fit``.
        spherical: whether vectors are directions.
        simplices: number of the codebook's simplices, set when it is fitted.
        hard_labels: encode a vector as the nearest codebook vector, not as a mixture of the
            vectors around it.
    """

    has_prediction_sets = True

    def __init__(
        self,
        *,
        channels: int,
        label: str,
        bins: Bins | None,
        default_bins: int,
        alpha: float,
        bounds: tuple[float, float] | None = None,
        spacing: Spacing = "log1p",
        spherical: bool = False,
        simplices: int = 0,
        hard_labels: bool = False,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.label = label
        self.bins: Bins | None = bins
        self.default_bins = default_bins
        self.alpha = alpha
        self.bounds = bounds
        self.spacing: Spacing = spacing
        self.spherical = spherical
        self.hard_labels = hard_labels
        self.codec: LabelCodec | None = None
        if bins is not None:
            count = bin_count(bins, default_bins)
            self.codec = (
                ScalarBins(count)
                if channels == 1
                else VectorCodebook(count, channels, simplices=simplices, spherical=spherical)
            )

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """A distribution if the task has bins or a codebook, then values."""
        values = OutputSpec("values", self.channels, bounds=self.bounds, codec=self.codec)
        if self.codec is None:
            return (values,)
        return OutputSpec("distribution", self.codec.num_classes, codec=self.codec), values

    @property
    def needs_fitting(self) -> bool:
        """Whether the task has bins or a codebook that are not fitted to labels yet."""
        return self.codec is not None and not self.codec.is_fitted

    def fitted(self, values: Float[Tensor, "m d"]) -> Self:
        """Return the task with bins or a codebook that are fitted to labels.

        Args:
            values: labels of all valid pixels of the training set.

        Raises:
            InputError: if the labels are constant or not finite, or if there are fewer different
                labels than bins.
        """
        count = bin_count(self.bins or "auto", self.default_bins, values)
        if self.channels == 1:
            codec = ScalarBins.fit(values, count, spacing=self.spacing)
            return self.with_codec(codec.with_statistics(values), bins=count)
        book = VectorCodebook.fit(values, count, spherical=self.spherical)
        if self.hard_labels:
            book = VectorCodebook.of(book.vectors, spherical=self.spherical)
        codec = book.with_statistics(values)
        return self.with_codec(codec, bins=count, simplices=len(book.simplices))

    def with_codec(self, codec: LabelCodec, **arguments: Any) -> Self:
        """Return a copy of the task with other constructor arguments and this codec."""
        task = type(self)(**{**self._arguments, **arguments})
        task.codec = codec
        return task

    def loss(
        self, output: Output, target: Target, soft_labels: SoftLabels | None = None
    ) -> dict[str, Tensor]:
        """Return the loss of values, or for a distribution L_cls + alpha L_reg and both parts."""
        match output:
            case Values(maps) | Moments(maps):
                return self.value_loss(maps, target)
            case Distribution(probability, value):
                assert self.codec is not None
                parts = {"value": self._squared_error(value, target)}
                if math.isinf(self.alpha):
                    return {"loss": parts["value"], "value": parts["value"].detach()}
                soft = soft_labels or self.codec.encode(target.label)
                parts["class"] = distribution_loss(probability, soft, target.valid)
                loss = parts["class"] + self.alpha * parts["value"]
                return {"loss": loss} | {name: part.detach() for name, part in parts.items()}
        raise unsupported(self, output)

    def value_loss(self, values: Maps, target: Target) -> dict[str, Tensor]:
        """Return the mean squared error; with a codec, in units of the labels' deviation."""
        loss = self._squared_error(values, target)
        return {"loss": loss, "value": loss.detach()}

    def _squared_error(self, values: Maps, target: Target) -> Tensor:
        # invalid labels may be NaN, so their error is set to 0
        error = torch.where(target.valid[:, None], values - target.label, 0)
        if self.codec is not None:
            error = error / self.codec.label_std.to(values)[:, None, None]
        return masked_mean(error.square().mean(dim=1), target.valid)

    def encode_label(self, label: Maps) -> SoftLabels | None:
        """Return labels as soft labels; None if the task has no bins or codebook."""
        return None if self.codec is None else self.codec.encode(label)

    def decode(self, output: Output) -> list[Prediction]:
        """Return the values of each image, with their standard deviation if it is known.

        It is that of the distribution, or that over the windows and flips of an image.
        """
        match output:
            case Values(maps, std):
                rms = None if std is None else std.float().square().mean(dim=1).sqrt()
                return self._predictions(maps.float(), rms)
            case Distribution():
                return self.decode(output.reduced())
            case Moments(value):
                return self._predictions(value.float(), output.std.float())
        raise unsupported(self, output)

    def _predictions(self, values: Maps, std: Float[Tensor, "b h w"] | None) -> list[Prediction]:
        stds: Sequence[Tensor | None] = [None] * len(values) if std is None else std.unbind()
        return [self.prediction(value, s) for value, s in zip(values, stds, strict=True)]

    @abc.abstractmethod
    def prediction(
        self, values: Float[Tensor, "d h w"], std: Map | None, valid: Mask | None = None
    ) -> Prediction:
        """Return the prediction for one image.

        Args:
            values: values in the unit of the task.
            std: standard deviation, root mean square over the channels; None if unknown.
            valid: valid pixels of a label; None for an output, whose validity is computed.
        """

    def truth(self, target: Target) -> list[Prediction]:
        """Return the labels as perfect predictions."""
        pairs = zip(target.label.float(), target.valid, strict=True)
        return [self.prediction(label, None, valid) for label, valid in pairs]

    def to_label(self, output: Output) -> Maps:
        """Return the predicted values."""
        match output:
            case Values(maps):
                return maps
            case Distribution(_, value) | Moments(value):
                return value
        raise unsupported(self, output)

    def measure(self, label: Maps, target: Target) -> Float64[Tensor, " sums"]:
        """Return the sum of squared errors and the number of valid pixels."""
        error = (label - target.label).double().square().mean(dim=1)[target.valid]
        return torch.stack([error.sum(), target.valid.sum().double()])

    def score(self, sums: Float64[Tensor, "..."]) -> float:
        """Return the root mean squared error, computed from the first two sums."""
        return float((sums[0] / sums[1]).sqrt())

    def constant(self, label: Maps, valid: Masks) -> Float[Tensor, " d"]:
        """Return the mean of the valid labels."""
        return label.movedim(1, -1)[valid].mean(dim=0)

    def nonconformity(self, output: Output, label: Maps) -> Float[Tensor, "b h w"]:
        """Return the error divided by its predicted scale (Lei et al. 2018, section 5.2).

        ``|y - f(x)| / s(x)``, with the norm over the channels. The scale ``s`` is the standard
        deviation of the predicted distribution, but at least ``MIN_SCALE`` times the labels'
        standard deviation. For values without a distribution it is the labels' standard deviation.
        """
        error = self.error(self.to_label(output).float(), label)
        return (error / self._scale(output)).nan_to_num(nan=math.inf, posinf=math.inf)

    def pixel_errors(self, prediction: Prediction, target: Target) -> PixelErrors | None:
        """Return the errors of one image and their standard deviation; None without one."""
        std = prediction.std
        if std is None:
            return None
        values = prediction.to_label().float()[None].to(target.label.device)
        error = self.error(values, target.label)[0]
        return PixelErrors(error, self._std_of_error(std[None].to(error.device))[0])

    @property
    def error_kind(self) -> ErrorKind:
        """``number`` for one channel, ``vector`` for several."""
        return "number" if self.channels == 1 else "vector"

    def error(self, values: Maps, label: Maps) -> Float[Tensor, "b h w"]:
        """Return the error at every pixel: the Euclidean norm of the difference of the channels."""
        return torch.linalg.vector_norm(values - label, dim=1)

    def prediction_set(self, output: Output, q: float) -> PredictionSet:
        """Return the ends of an interval (``low``, ``high``), or the ``radius`` of a ball.

        Labels with one channel have an interval, labels with several channels a ball around the
        predicted values. The model abstains where the radius (half the interval) is larger than the
        labels' standard deviation.
        """
        values, radius = self.to_label(output).float()[0], q * self._scale(output)[0]
        abstain = ~(radius <= self._label_deviation())
        rule = "the interval is wider than two standard deviations of the training labels"
        if self.channels > 1:
            rule = "the radius is larger than the standard deviation of the training labels"
            arrays = {"radius": StoredArray(radius.cpu().numpy())}
            return PredictionSet(arrays, abstain.cpu(), {"abstain_where": rule, **self._radius})
        ends = {"low": (values[0] - radius).clamp(min=self.lower_bound), "high": values[0] + radius}
        arrays = {name: StoredArray(end.cpu().numpy()) for name, end in ends.items()}
        meaning = {"abstain_where": rule, "low_high_unit": self.unit}
        return PredictionSet(arrays, abstain.cpu(), meaning)

    @property
    def _radius(self) -> Mapping[str, Any]:
        """Meaning and unit of ``radius``, for the JSON file."""
        return {"radius_is": "Euclidean distance from the values", "radius_unit": self.unit}

    def _label_deviation(self) -> float:
        """Return the labels' standard deviation in the unit of ``error``; 1 without a codec."""
        if self.codec is None:
            return 1.0
        return float(torch.linalg.vector_norm(self.codec.label_std))

    def _scale(self, output: Output) -> Float[Tensor, "b h w"]:
        """Return the scale of the error at every pixel, in the unit of ``error``."""
        deviation = self._label_deviation()
        match output:
            case Moments():
                return self._std_of_error(output.std).clamp(min=MIN_SCALE * deviation)
            case Values(maps):
                return torch.full_like(maps[:, 0], deviation, dtype=torch.float32)
        raise unsupported(self, output)

    def _std_of_error(self, std: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
        """Return a standard deviation (root mean square over channels) in the unit of ``error``."""
        return std.float() * self.channels**0.5

    def totals(self, label: Float[Tensor, "d h w"], valid: Mask) -> Mapping[str, float]:
        """Return the ``mean`` over the valid pixels; nothing for several channels."""
        if self.channels > 1:
            return {}
        return {"mean": float(label[0][valid & label[0].isfinite()].double().mean())}

    def baselines(self, labels: LabelMaps) -> Mapping[str, Tensor]:
        """Return the median, and the mean at every pixel position, see ``mean_map``."""
        return mean_map(labels)


def bin_count(bins: Bins, default: int, values: Float[Tensor, "m d"] | None = None) -> int:
    """Return the number of bins or codebook vectors.

    Args:
        bins: the number, or ``auto``.
        default: number for ``auto``, which is reduced if there are fewer different labels.
        values: labels; None if they are not known yet.

    Raises:
        InputError: for fewer than two classes.
    """
    if bins == "auto":
        return default if values is None else max(2, min(default, len(values.unique(dim=0))))
    if bins < 2:
        raise InputError(f"bins {bins}: give 2 or more")
    return bins


def mean_map(labels: LabelMaps, *, positive: bool = False) -> dict[str, Tensor]:
    """Return the median of all labels, and their mean at every pixel position.

    Args:
        labels: labels of one size.
        positive: use only positive labels.

    Returns:
        ``constant median``, 1 x 1, and ``mean map``, ``h w``; nothing for several channels.
    """
    total = count = torch.zeros(())
    subsets: list[Tensor] = []
    for values, valid in labels:
        if values.ndim == 3 and len(values) > 1:
            return {}
        values = values.reshape(values.shape[-2:]).double()
        is_used = valid & (values > 0) if positive else valid
        total = total + torch.where(is_used, values, 0)
        count = count + is_used
        # every 7th pixel is enough for a median; 7 is coprime to most widths
        subsets.append(values[is_used][::7])
    median = torch.cat(subsets).median()
    mean = torch.where(count > 0, total / count.clamp(min=1), median)
    return {"constant median": median.float().reshape(1, 1), "mean map": mean.float()}
