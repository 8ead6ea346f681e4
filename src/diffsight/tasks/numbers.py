"""What the tasks of numbers share: depth, normals and other values, and their fitted classes."""

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

# Smallest scale of an error, in standard deviations of the labels. With 0.1, a few pixels of small
# predicted deviation made all intervals wide, in a trial with ten labelled rooms.
MIN_SCALE = 0.3
Bins = int | Literal["auto"]
"""A number of classes, or as many as a task has by default and its labels allow."""


class AbstractNumbers(AbstractTask):
    """Numbers per pixel, given as values or as a distribution over fitted classes.

    A distribution is learned as in few_shot (equation 5): L = L_cls + alpha L_reg, where L_reg is
    in units of the labels' standard deviation, so that alpha means the same for every task.

    Args:
        channels: numbers per pixel.
        label: key of ``Sample.labels``.
        bins: classes of a distribution: bins of a scalar, or vectors of a codebook; None offers
            values alone.
        default_bins: how many ``auto`` is.
        alpha: weight of L_reg; infinity leaves it alone (regression).
        bounds: of values.
        spacing: of the bins of a scalar, see ``ScalarBins.fit``.
        spherical: whether vectors are directions.
        simplices: of the codebook; set when it is fitted.
        hard_labels: the class of a vector is the nearest codebook vector, not a mixture of those
            around it.
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
        """A distribution where there are classes, and values."""
        values = OutputSpec("values", self.channels, bounds=self.bounds, codec=self.codec)
        if self.codec is None:
            return (values,)
        return OutputSpec("distribution", self.codec.num_classes, codec=self.codec), values

    @property
    def needs_fitting(self) -> bool:
        """Whether there are classes without values."""
        return self.codec is not None and not self.codec.is_fitted

    def fitted(self, values: Float[Tensor, "m d"]) -> Self:
        """Return the task with bins or a codebook for these labels."""
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
        """Return the task of the same constructor call, with other arguments and this codec."""
        made = type(self)(**{**self._arguments, **arguments})
        made.codec = codec
        return made

    def loss(
        self, output: Output, target: Target, soft_labels: SoftLabels | None = None
    ) -> dict[str, Tensor]:
        """Return the loss of values, or L_cls + alpha L_reg of a distribution, and its parts."""
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
        """Return the squared error, in units of the labels' deviation where it is known."""
        loss = self._squared_error(values, target)
        return {"loss": loss, "value": loss.detach()}

    def _squared_error(self, values: Maps, target: Target) -> Tensor:
        # 0 where labels are not valid, and may be NaN
        gap = torch.where(target.valid[:, None], values - target.label, 0)
        if self.codec is not None:
            gap = gap / self.codec.label_std.to(values)[:, None, None]
        return masked_mean(gap.square().mean(dim=1), target.valid)

    def encode_label(self, label: Maps) -> SoftLabels | None:
        """Return the classes of a label."""
        return None if self.codec is None else self.codec.encode(label)

    def decode(self, output: Output) -> list[Prediction]:
        """Return the numbers with the standard deviation of their distribution or of the views."""
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
        return [self.prediction(one, s) for one, s in zip(values, stds, strict=True)]

    @abc.abstractmethod
    def prediction(
        self, values: Float[Tensor, "d h w"], std: Map | None, valid: Mask | None = None
    ) -> Prediction:
        """Return the prediction of one image; ``valid`` is that of a label."""

    def truth(self, target: Target) -> list[Prediction]:
        """Return the labels as perfect predictions."""
        pairs = zip(target.label.float(), target.valid, strict=True)
        return [self.prediction(label, None, valid) for label, valid in pairs]

    def to_label(self, output: Output) -> Maps:
        """Return the numbers."""
        match output:
            case Values(maps):
                return maps
            case Distribution(_, value) | Moments(value):
                return value
        raise unsupported(self, output)

    def measure(self, label: Maps, target: Target) -> Float64[Tensor, " sums"]:
        """Return the sum of squared errors and the number of pixels."""
        gap = (label - target.label).double().square().mean(dim=1)[target.valid]
        return torch.stack([gap.sum(), target.valid.sum().double()])

    def score(self, sums: Float64[Tensor, "..."]) -> float:
        """Return the root mean squared error, of the first two sums."""
        return float((sums[0] / sums[1]).sqrt())

    def constant(self, label: Maps, valid: Masks) -> Float[Tensor, " d"]:
        """Return the mean."""
        return label.movedim(1, -1)[valid].mean(dim=0)

    def nonconformity(self, output: Output, label: Maps) -> Float[Tensor, "b h w"]:
        """Return the error in predicted standard deviations (Lei et al. 2018, section 5.2).

        ``|y - f(x)| / s(x)``, with the norm over the channels. The scale ``s`` is the standard
        deviation of the predicted distribution, but at least ``MIN_SCALE`` of that of the labels;
        for values without a distribution it is that of the labels.
        """
        error = self.error(self.to_label(output).float(), label)
        return (error / self._scale(output)).nan_to_num(nan=math.inf, posinf=math.inf)

    def pixel_errors(self, prediction: Prediction, target: Target) -> PixelErrors | None:
        """Return the errors of one image and their standard deviation."""
        std = prediction.std
        if std is None:
            return None
        values = prediction.to_label().float()[None].to(target.label.device)
        error = self.error(values, target.label)[0]
        return PixelErrors(error, self._std_of_error(std[None].to(error.device))[0])

    @property
    def error_kind(self) -> ErrorKind:
        """A number, or a vector."""
        return "number" if self.channels == 1 else "vector"

    def error(self, values: Maps, label: Maps) -> Float[Tensor, "b h w"]:
        """Return the distance of two maps at every pixel: the norm over the channels."""
        return torch.linalg.vector_norm(values - label, dim=1)

    def prediction_set(self, output: Output, q: float) -> PredictionSet:
        """Return ``low`` and ``high`` of one number; of several the ``radius`` around them.

        The model abstains where the radius is larger than the standard deviation of the labels,
        so that the interval is wider than that of the labels' mean plus and minus one deviation.
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
        about = {"abstain_where": rule, "low_high_unit": self.unit}
        return PredictionSet(arrays, abstain.cpu(), about)

    @property
    def _radius(self) -> Mapping[str, Any]:
        """What a radius means, for the JSON file."""
        return {"radius_is": "Euclidean distance from the values", "radius_unit": self.unit}

    def _label_deviation(self) -> float:
        """Return the standard deviation of the labels in the unit of ``error``; 1 if not known."""
        if self.codec is None:
            return 1.0
        return float(torch.linalg.vector_norm(self.codec.label_std))

    def _scale(self, output: Output) -> Float[Tensor, "b h w"]:
        """Return the scale of an error at every pixel, in the unit of ``error``."""
        deviation = self._label_deviation()
        match output:
            case Moments():
                return self._std_of_error(output.std).clamp(min=MIN_SCALE * deviation)
            case Values(maps):
                return torch.full_like(maps[:, 0], deviation, dtype=torch.float32)
        raise unsupported(self, output)

    def _std_of_error(self, std: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
        """Return a standard deviation, root mean square over channels, in the unit of ``error``."""
        return std.float() * self.channels**0.5

    def totals(self, label: Float[Tensor, "d h w"], valid: Mask) -> Mapping[str, float]:
        """Return the mean of one number over the valid pixels; none of several."""
        if self.channels > 1:
            return {}
        return {"mean": float(label[0][valid & label[0].isfinite()].double().mean())}

    def baselines(self, labels: LabelMaps) -> Mapping[str, Tensor]:
        """Return the median, and the mean at every pixel position; of one channel."""
        return mean_map(labels)


def bin_count(bins: Bins, default: int, values: Float[Tensor, "m d"] | None = None) -> int:
    """Return the number of classes.

    Args:
        bins: as many, or ``auto``: ``default``, but no more than there are different values.
        default: of ``auto``.
        values: labels.

    Raises:
        InputError: for fewer than two.
    """
    if bins == "auto":
        return default if values is None else max(2, min(default, len(values.unique(dim=0))))
    if bins < 2:
        raise InputError(f"bins {bins}: give 2 or more")
    return bins


def mean_map(labels: LabelMaps, *, positive: bool = False) -> dict[str, Tensor]:
    """Return the median, and the mean at every pixel position."""
    total = seen = torch.zeros(())
    some: list[Tensor] = []
    for values, valid in labels:
        if values.ndim == 3 and len(values) > 1:
            return {}
        values = values.reshape(values.shape[-2:]).double()
        known = valid & (values > 0) if positive else valid
        total = total + torch.where(known, values, 0)
        seen = seen + known
        # every 7th pixel is enough for a median and coprime to most widths
        some.append(values[known][::7])
    median = torch.cat(some).median()
    mean = torch.where(seen > 0, total / seen.clamp(min=1), median)
    return {"constant median": median.float().reshape(1, 1), "mean map": mean.float()}
