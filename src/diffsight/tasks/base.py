"""The base class of tasks. A task defines what labels mean and knows nothing of the network."""

import abc
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from diffsight.config import Configurable
from diffsight.datasets.base import Sample
from diffsight.errors import InputError
from diffsight.outputs import LabelCodec, Output, OutputSpec, SoftLabels
from diffsight.outputs.kinds import MIN_PROBABILITY
from diffsight.tasks.prediction import Prediction, PredictionSet, to_pixels
from diffsight.types import ErrorKind, Map, Maps, Mask, Masks, People, PixelErrors, Target

LabelMaps = Iterable[tuple[Tensor, Bool[Tensor, "h w"]]]
"""Labels ``c h w`` or ``h w`` of one size, each with its mask of valid pixels."""


class AbstractTask(nn.Module, Configurable, abc.ABC):
    """One kind of label: its losses, its metric, its mirror image, and its predictions.

    Attributes:
        label: key of ``Sample.labels`` that the task reads.
        requires_prompt: whether every image needs a sentence, as in referring segmentation.
        metric_name: name and unit of the metric that compares methods on held-out images.
        higher_is_better: whether a higher value of that metric is better.
        is_mirrorable: whether the label of a mirrored image can be computed.
        class_names: names of the classes in the order of their numbers; empty for other labels.
        ids: ids of the classes in label files and predictions; empty for other labels.
        unit: unit of the predicted values; empty if they have none.
        has_prediction_sets: whether the task implements ``nonconformity`` and ``prediction_set``,
            so that predictions can be calibrated.
        lower_bound: lower bound of the predicted values.
        sigmas: constants of the object keypoint similarity, one per joint; empty for other labels.
        map_cells: number of cells along each axis and length of a cell in metres, for maps around
            a vehicle; None for other labels.
        has_regions: whether the model runs on parts of an image (``regions``), such as people.
    """

    label: str
    requires_prompt: ClassVar[bool] = False
    metric_name: str
    higher_is_better: ClassVar[bool] = False
    is_mirrorable: bool = True
    class_names: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()
    unit: str = ""
    has_prediction_sets: ClassVar[bool] = False
    lower_bound: ClassVar[float] = -math.inf
    sigmas: tuple[float, ...] = ()
    map_cells: tuple[int, float] | None = None
    has_regions: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def outputs(self) -> tuple[OutputSpec, ...]:
        """The kinds of output that the task has a loss for, the preferred one first.

        ``DenseModel`` takes the first kind that its method supports.
        """

    @property
    def needs_fitting(self) -> bool:
        """Whether bins or a codebook must be fitted to labels before a model is built."""
        return False

    def fitted(self, values: Float[Tensor, "m d"]) -> Self:
        """Return the task with bins or a codebook that are fitted to labels of valid pixels.

        Raises:
            InputError: if nothing can be fitted to them: they are constant or not finite, or there
                are fewer different ones than bins.
        """
        return self

    def restrict_to(self, names: Sequence[str]) -> Self:
        """Return a copy of the task that predicts only the classes of these names.

        Raises:
            InputError: for an unknown name, or if the task predicts no classes.
        """
        raise InputError("predicts no classes of its own: leave --classes out")

    def with_codec(self, codec: LabelCodec, **arguments: Any) -> Self:
        """Return a copy of the task with other constructor arguments and this fitted codec.

        Raises:
            InputError: if the task has no codec.
        """
        raise InputError(f"{type(self).__name__} has no bins: leave them out")

    @abc.abstractmethod
    def loss(
        self, output: Output, target: Target, soft_labels: SoftLabels | None = None
    ) -> dict[str, Tensor]:
        """Return scalar losses by name; training minimises ``loss``.

        Args:
            output: output of a method, of one of the kinds in ``outputs``.
            target: labels.
            soft_labels: result of ``encode_label`` for the target, if it was computed before.
        """

    def encode_label(self, label: Tensor) -> SoftLabels | None:
        """Return the soft labels of a label ``b c h w`` or ``b h w``; None without classes."""
        return None

    def mirror_label(self, label: Tensor) -> Tensor:
        """Return the label of the mirrored image; the last axis runs over the columns."""
        return label.flip(-1)

    def mirror_output(self, output: Output) -> Output:
        """Return the output for the mirrored image, computed from the output for the image."""
        return output.mirrored()

    def regions(
        self, image: Float[Tensor, "3 h w"], people: People | None
    ) -> Iterator[tuple[Float[Tensor, "3 _ _"], Any]]:
        """Yield the parts of an image that the model runs on; default: the whole image.

        Args:
            image: image in [0, 1].
            people: people whose joints are predicted; None if there are no boxes.

        Yields:
            A part, and its location in the image, which ``assemble`` needs.
        """
        yield image, None

    def assemble(
        self, outputs: Sequence[Output], locations: Sequence[Any], hw: tuple[int, int]
    ) -> Prediction:
        """Return the prediction for an image; default: that of its only part.

        Args:
            outputs: outputs for the parts, batches of one.
            locations: locations of the parts, as ``regions`` yields them.
            hw: height and width of the image.
        """
        return self.decode(outputs[0])[0]

    @abc.abstractmethod
    def decode(self, output: Output) -> Sequence[Prediction]:
        """Return one prediction per image, in the unit of the task."""

    @abc.abstractmethod
    def truth(self, target: Target) -> Sequence[Prediction]:
        """Return the labels as perfect predictions, to draw them or to compare with them."""

    @abc.abstractmethod
    def to_label(self, output: Output) -> Tensor:
        """Return the output in the form of a label: values ``b d h w`` or ids ``b h w``."""

    @abc.abstractmethod
    def measure(self, label: Tensor, target: Target) -> Float64[Tensor, "..."]:
        """Return the metric's sums over a batch; sums can be added, and ``score`` takes them.

        Args:
            label: predictions in the form of labels, as ``to_label`` returns them.
            target: labels.
        """

    @abc.abstractmethod
    def score(self, sums: Float64[Tensor, "..."]) -> float:
        """Return the metric of accumulated sums."""

    def figures(self, sums: Float64[Tensor, "..."]) -> Mapping[str, float]:
        """Return figures of accumulated sums by name and unit; default: the metric alone."""
        return {self.metric_name: self.score(sums)}

    def nonconformity(self, output: Output, label: Tensor) -> Float[Tensor, "b h w"]:
        """Return the nonconformity at every pixel: how badly the label fits the output.

        The prediction set of a threshold q has all labels whose nonconformity is at most q.

        Args:
            output: output of a method, reduced (``Output.reduced``).
            label: ``b d h w`` or ``b h w`` at the size of the output; invalid pixels may have any
                value.
        """
        raise NotImplementedError(f"{type(self).__name__} has no prediction sets")

    def prediction_set(self, output: Output, q: float) -> PredictionSet:
        """Return the labels of one image whose nonconformity is at most ``q``.

        Args:
            output: reduced output, a batch of one.
            q: threshold.
        """
        raise NotImplementedError(f"{type(self).__name__} has no prediction sets")

    def pixel_errors(self, prediction: Prediction, target: Target) -> PixelErrors | None:
        """Return the errors of one image and their uncertainty; None without an uncertainty.

        Args:
            prediction: prediction of this task.
            target: labels, a batch of one.
        """
        return None

    @property
    def error_kind(self) -> ErrorKind | None:
        """The kind of errors that ``pixel_errors`` returns; None if it returns none."""
        return None

    def totals(self, label: Tensor, valid: Mask) -> Mapping[str, float]:
        """Return totals of a whole image: ``mean``, or ``area.NAME`` of every class in [0, 1].

        Args:
            label: ``d h w`` or ``h w``.
            valid: pixels that count.
        """
        return {}

    def metric(self) -> Any:
        """Return the task's own metric (``TaskMetric``), for an evaluation without a protocol."""
        from diffsight.tasks.metric import TaskMetric

        return TaskMetric(self)

    @abc.abstractmethod
    def constant(self, label: Maps, valid: Masks) -> Float[Tensor, " d"]:
        """Return the constant prediction that scores best on these labels."""

    @abc.abstractmethod
    def baselines(self, labels: LabelMaps) -> Mapping[str, Tensor]:
        """Return label maps that are the same for every image and that a model must beat.

        Args:
            labels: labels of a training set, at one size.

        Returns:
            By name, ``h w`` or 1 x 1, floats or ids as the labels are; ``k h w`` for labels on
            their own grid; empty for other labels of several channels.
        """

    def comparable_label(self, sample: Sample, hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the label of a sample as ``baselines`` needs it, and its mask of valid pixels.

        Args:
            sample: sample of any size.
            hw: height and width of the baselines' maps.
        """
        label, valid = sample.labels[self.label].double(), sample.valid[self.label].double()
        channels = label[None] if label.ndim == 2 else label
        resized = functional.interpolate(channels[None], hw)[0]
        is_valid = functional.interpolate(valid[None, None], hw)[0, 0] > 0
        return (resized[0] if len(resized) == 1 else resized), is_valid

    def oriented(self, values: Map) -> Map:
        """Return a map rotated like the pictures of predictions; default: unchanged."""
        return values

    def from_baseline(self, baseline: Tensor, target: Target) -> Prediction:
        """Return a baseline as the prediction for an image.

        Args:
            baseline: one of ``baselines``.
            target: labels of the image, a batch of one.
        """
        height, width = target.valid.shape[-2:]
        label = resize_map(baseline, (height, width))
        return self.truth(Target(label, torch.ones_like(target.valid)))[0]

    def panel(
        self, image: Float[Tensor, "3 h w"], truth: Prediction, prediction: Prediction
    ) -> UInt8[Tensor, "3 h w4"]:
        """Return image, truth, prediction and error side by side; the image is in [0, 1]."""
        drawn = truth.draw_with(prediction, image)
        return torch.cat([to_pixels(image), *drawn], dim=2)


def masked_mean(values: Float[Tensor, "b h w"], valid: Masks) -> Tensor:
    """Return the mean over the valid pixels; without any, 0 that still has a gradient."""
    return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)


def count_classes(labels: LabelMaps, classes: int) -> Tensor:
    """Return the number of labels that have each class at each pixel position, ``k h w``."""
    counts = torch.zeros(())
    ids = torch.arange(classes)[:, None, None]
    for values, valid in labels:
        counts = counts + ((values == ids) & valid).int()
    return counts


def distribution_loss(probability: Maps, soft: SoftLabels, valid: Masks) -> Tensor:
    """Return the cross-entropy of a distribution with soft labels, mean over the valid pixels."""
    ids, weights = soft.ids.to(probability.device), soft.weights.to(probability)
    weights = torch.where(valid[:, None], weights, 0)  # they may be NaN where labels are invalid
    nll = -probability.clamp(min=MIN_PROBABILITY).log().gather(1, ids)
    return masked_mean((weights * nll).sum(dim=1), valid)


def resize_map(label_map: Tensor, hw: tuple[int, int]) -> Tensor:
    """Return a baseline's label map at another size, with a batch axis.

    Floats are interpolated to ``1 1 h w``; ids take the nearest neighbour, ``1 h w``.
    """
    if label_map.is_floating_point():
        return functional.interpolate(label_map[None, None], hw, mode="bilinear")
    return functional.interpolate(label_map[None, None].double(), hw)[0].long()


def unsupported(task: Any, output: Output) -> TypeError:
    """Return the error for an output of a kind that the task does not support."""
    return TypeError(f"{type(task).__name__} has no loss for {type(output).__name__}")
