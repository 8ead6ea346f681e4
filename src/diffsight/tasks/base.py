"""A task knows what the numbers of a map mean, and nothing about the architecture."""

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
    """One kind of label: its losses, its metric, what a flip does to it, and its predictions.

    Attributes:
        label: key of ``Sample.labels`` that the task learns.
        requires_prompt: whether a sentence is part of the question, as for referring segmentation.
        metric_name: of the number by which methods are compared on held-out images, with its unit.
        higher_is_better: order of that number.
        is_mirrorable: whether the label of a mirrored image is known.
        class_names: names of the classes in the order of their numbers; empty for other labels.
        ids: of the classes in label files and predictions.
        unit: of the numbers that are predicted.
        has_prediction_sets: whether ``nonconformity`` and ``prediction_set`` are there, so that
            predictions can be calibrated.
        lower_bound: of the numbers that are predicted.
        sigmas: of the object keypoint similarity, one per joint; empty for other labels.
        map_cells: of maps around a vehicle, along each axis, and their length in metres.
        has_regions: whether parts of an image are run by themselves (``regions``), such as people.
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
        """The forms of output that the task has a loss for, preferred ones first.

        ``DenseModel`` takes the first that its method can give.
        """

    @property
    def needs_fitting(self) -> bool:
        """Whether bins or a codebook have to be fitted to labels before a model is built."""
        return False

    def fitted(self, values: Float[Tensor, "m d"]) -> Self:
        """Return the task with bins or a codebook for these labels of valid pixels.

        Raises:
            InputError: if they cannot be learned (constant, not finite, fewer than the bins).
        """
        return self

    def restrict_to(self, names: Sequence[str]) -> Self:
        """Return the task, which predicts only classes of these names.

        Raises:
            InputError: for an unknown name, or a task that predicts no classes.
        """
        raise InputError("predicts no classes of its own: leave --classes out")

    def with_codec(self, codec: LabelCodec, **arguments: Any) -> Self:
        """Return the same task with other arguments and this fitted codec.

        Raises:
            InputError: if the task has no codec.
        """
        raise InputError(f"{type(self).__name__} has no bins: leave them out")

    @abc.abstractmethod
    def loss(
        self, output: Output, target: Target, soft_labels: SoftLabels | None = None
    ) -> dict[str, Tensor]:
        """Return scalars by name; ``loss`` is the one to minimise.

        Args:
            output: of a method, in one of the forms of ``outputs``.
            target: labels.
            soft_labels: what ``encode_label`` gives for the target, if it is known already.
        """

    def encode_label(self, label: Tensor) -> SoftLabels | None:
        """Return the classes of a label ``b c h w`` or ``b h w``; None if the task has none."""
        return None

    def mirror_label(self, label: Tensor) -> Tensor:
        """Return the label of the mirrored image; the last axis runs over the columns."""
        return label.flip(-1)

    def mirror_output(self, output: Output) -> Output:
        """Return the output for the mirrored image, given that of the image."""
        return output.mirrored()

    def regions(
        self, image: Float[Tensor, "3 h w"], people: People | None
    ) -> Iterator[tuple[Float[Tensor, "3 _ _"], Any]]:
        """Yield the parts of an image that are run by themselves; default: all of it.

        Args:
            image: in [0, 1].
            people: whose joints are to be found.

        Yields:
            A part, and where it lies, for ``assemble``.
        """
        yield image, None

    def assemble(
        self, outputs: Sequence[Output], places: Sequence[Any], hw: tuple[int, int]
    ) -> Prediction:
        """Return the prediction of an image; default: that of its one output.

        Args:
            outputs: of the parts of the image, batches of one.
            places: where the parts lie.
            hw: height and width of the image.
        """
        return self.decode(outputs[0])[0]

    @abc.abstractmethod
    def decode(self, output: Output) -> Sequence[Prediction]:
        """Return one prediction per image, in the units of the task."""

    @abc.abstractmethod
    def truth(self, target: Target) -> Sequence[Prediction]:
        """Return the labels as perfect predictions, to draw or to compare with."""

    @abc.abstractmethod
    def to_label(self, output: Output) -> Tensor:
        """Return the output in the form of a label: ``b d h w`` of numbers or ``b h w`` of ids."""

    @abc.abstractmethod
    def measure(self, label: Tensor, target: Target) -> Float64[Tensor, "..."]:
        """Return sums over a batch that can be added up and given to ``score``.

        Args:
            label: predictions in the form of labels, as ``to_label`` gives them.
            target: the truth.
        """

    @abc.abstractmethod
    def score(self, sums: Float64[Tensor, "..."]) -> float:
        """Return the metric of accumulated sums."""

    def figures(self, sums: Float64[Tensor, "..."]) -> Mapping[str, float]:
        """Return more figures of accumulated sums, by name with their unit; default: the metric."""
        return {self.metric_name: self.score(sums)}

    def nonconformity(self, output: Output, label: Tensor) -> Float[Tensor, "b h w"]:
        """Return how badly a label fits an output at every pixel.

        The prediction set of a threshold q holds all labels whose nonconformity is at most q.

        Args:
            output: of a method, reduced (``Output.reduced``).
            label: ``b d h w`` or ``b h w`` at the size of the output; what is not valid may hold
                anything.
        """
        raise NotImplementedError(f"{type(self).__name__} has no prediction sets")

    def prediction_set(self, output: Output, q: float) -> PredictionSet:
        """Return the labels of nonconformity at most ``q``, of one image.

        Args:
            output: reduced, a batch of one.
            q: threshold.
        """
        raise NotImplementedError(f"{type(self).__name__} has no prediction sets")

    def pixel_errors(self, prediction: Prediction, target: Target) -> PixelErrors | None:
        """Return the errors of one image and their uncertainty; None where there is none.

        Args:
            prediction: of this task.
            target: labels, a batch of one.
        """
        return None

    @property
    def error_kind(self) -> ErrorKind | None:
        """Kind of what ``pixel_errors`` compares; None: nothing of single pixels."""
        return None

    def totals(self, label: Tensor, valid: Mask) -> Mapping[str, float]:
        """Return numbers about a whole image: ``mean``, or ``area.NAME`` of every class.

        Args:
            label: ``d h w`` or ``h w``.
            valid: pixels that count.
        """
        return {}

    def metric(self) -> Any:
        """Return the task's own metric (``TaskMetric``), for evaluations without a protocol."""
        from diffsight.tasks.metric import TaskMetric

        return TaskMetric(self)

    @abc.abstractmethod
    def constant(self, label: Maps, valid: Masks) -> Float[Tensor, " d"]:
        """Return the one value for every pixel that scores best on these labels."""

    @abc.abstractmethod
    def baselines(self, labels: LabelMaps) -> Mapping[str, Tensor]:
        """Return label maps, the same for every image, that a model must beat.

        Args:
            labels: of a training set, at one size.

        Returns:
            By name, ``h w`` or 1 x 1, of floats or ids as the labels are, ``k h w`` for labels on a
            grid of their own; empty for other labels of several channels.
        """

    def comparable_label(self, sample: Sample, hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the label of a sample in the frame of ``baselines``, and where it is valid.

        Args:
            sample: of any size.
            hw: size of the baselines' maps.
        """
        label, valid = sample.labels[self.label].double(), sample.valid[self.label].double()
        channels = label[None] if label.ndim == 2 else label
        resized = functional.interpolate(channels[None], hw)[0]
        is_valid = functional.interpolate(valid[None, None], hw)[0, 0] > 0
        return (resized[0] if len(resized) == 1 else resized), is_valid

    def oriented(self, values: Map) -> Map:
        """Return a map turned as the pictures of predictions are; default: unchanged."""
        return values

    def from_baseline(self, baseline: Tensor, target: Target) -> Prediction:
        """Return a baseline as the prediction of an image.

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
    """Return the mean over the valid pixels; 0 with its graph where there are none."""
    return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)


def count_classes(labels: LabelMaps, classes: int) -> Tensor:
    """Return how often every pixel position has every class, ``k h w``."""
    counts = torch.zeros(())
    ids = torch.arange(classes)[:, None, None]
    for values, valid in labels:
        counts = counts + ((values == ids) & valid).int()
    return counts


def distribution_loss(probability: Maps, soft: SoftLabels, valid: Masks) -> Tensor:
    """Return the cross-entropy of a distribution with soft labels, over the valid pixels."""
    ids, weights = soft.ids.to(probability.device), soft.weights.to(probability)
    weights = torch.where(valid[:, None], weights, 0)  # of an invalid label they may be NaN
    nll = -probability.clamp(min=MIN_PROBABILITY).log().gather(1, ids)
    return masked_mean((weights * nll).sum(dim=1), valid)


def resize_map(label_map: Tensor, hw: tuple[int, int]) -> Tensor:
    """Return a baseline's label map at the size of an image, with a batch axis and channels.

    Numbers are interpolated to ``1 1 h w``; ids take the nearest to ``1 h w``.
    """
    if label_map.is_floating_point():
        return functional.interpolate(label_map[None, None], hw, mode="bilinear")
    return functional.interpolate(label_map[None, None].double(), hw)[0].long()


def unsupported(task: Any, output: Output) -> TypeError:
    """Return the error for an output that the task did not ask for."""
    return TypeError(f"{type(task).__name__} has no loss for {type(output).__name__}")
