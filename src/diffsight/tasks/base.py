"""The base class of tasks. A task defines what labels mean and knows nothing about the network."""

import abc
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
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
from diffsight.tasks.prediction import Colour, Prediction, PredictionSet, to_pixels
from diffsight.types import ErrorKind, Map, Maps, Mask, Masks, People, PixelErrors, Target

LabelMaps = Iterable[tuple[Tensor, Bool[Tensor, "h w"]]]
"""Labels ``c h w`` or ``h w`` of one size, each with its mask of valid pixels."""


class AbstractTask(nn.Module, Configurable, abc.ABC):
    """Base class of tasks: losses, metric, mirroring and predictions for one kind of label.

    Attributes:
        label: key of ``Sample.labels`` that the task reads.
        requires_prompt: whether every image needs a sentence, as in referring segmentation.
        metric_name: name and unit of the metric that compares methods on held-out images
            (``score``).
        higher_is_better: whether a higher value of that metric is better.
        is_mirrorable: whether the label of a mirrored image can be computed.
        class_names: names of the classes in the order of their numbers; empty for other labels.
        ids: ids of the classes in label files and predictions; empty for other labels.
        colours: RGB colours of the classes by id; empty for other labels.
        unit: unit of the predicted values; empty if they have none.
        has_prediction_sets: whether the task implements ``nonconformity`` and ``prediction_set``,
            so that predictions can be calibrated.
        lower_bound: lower bound of the predicted values.
        sigmas: constants of the object keypoint similarity, one per joint; empty for other labels.
        map_cells: number of cells along each axis and length of a cell in metres, for
            bird's-eye-view maps; None for other labels.
        has_regions: whether the model runs on parts of an image (``regions``), such as people.
    """

    label: str
    requires_prompt: ClassVar[bool] = False
    metric_name: str
    higher_is_better: ClassVar[bool] = False
    is_mirrorable: bool = True
    class_names: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()
    colours: Mapping[int, Colour] = MappingProxyType({})
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
        """Return the task with bins or a codebook that are fitted to labels.

        Args:
            values: labels of all valid pixels of the training set.

        Raises:
            InputError: if the labels are constant or not finite, or if there are fewer different
                labels than bins.
        """
        return self

    def restrict_to(self, names: Sequence[str]) -> Self:
        """Return a copy of the task that predicts only the classes with these names.

        Raises:
            InputError: for an unknown name, or if the task predicts no classes.
        """
        raise InputError("the model predicts no classes with names: leave --classes out")

    def with_codec(self, codec: LabelCodec, **arguments: Any) -> Self:
        """Return a copy of the task with other constructor arguments and this fitted codec.

        Args:
            codec: fitted codec of the labels.
            arguments: constructor arguments that differ from those of this task.

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
            soft_labels: result of ``encode_label`` for the target; None computes it if needed.
        """

    def encode_label(self, label: Tensor) -> SoftLabels | None:
        """Return labels ``b c h w`` or ``b h w`` as soft labels; None without classes or bins."""
        return None

    def mirror_label(self, label: Tensor) -> Tensor:
        """Return the label of the mirrored image; the last axis of a label is its columns."""
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
        """Return the prediction for an image from the outputs for its parts.

        By default the image has one part.

        Args:
            outputs: output for each part, as a batch of one.
            locations: locations of the parts, as ``regions`` yields them.
            hw: height and width of the image.
        """
        return self.decode(outputs[0])[0]

    @abc.abstractmethod
    def decode(self, output: Output) -> Sequence[Prediction]:
        """Return one prediction per image, in the unit of the task."""

    @abc.abstractmethod
    def truth(self, target: Target) -> Sequence[Prediction]:
        """Return the labels as perfect predictions, one per image, to draw or compare them."""

    @abc.abstractmethod
    def to_label(self, output: Output) -> Tensor:
        """Return the predicted labels: values ``b d h w`` or class numbers ``b h w``."""

    @abc.abstractmethod
    def measure(self, label: Tensor, target: Target) -> Float64[Tensor, "..."]:
        """Return sums over a batch from which the metric is computed.

        Sums of several batches are added before ``score`` or ``figures`` is called.

        Args:
            label: predicted labels, as ``to_label`` returns them.
            target: true labels.
        """

    @abc.abstractmethod
    def score(self, sums: Float64[Tensor, "..."]) -> float:
        """Return the metric called ``metric_name``, computed from accumulated sums."""

    def figures(self, sums: Float64[Tensor, "..."]) -> Mapping[str, float]:
        """Return several metrics by name and unit, computed from accumulated sums.

        By default it is only the metric called ``metric_name``.
        """
        return {self.metric_name: self.score(sums)}

    def maps_by_name(self, output: Output) -> Mapping[str, Float[Tensor, "b _ h w"]]:
        """Return the maps of an output by name, with the numbers of the predictions."""
        return output.maps_by_name()

    def nonconformity(self, output: Output, label: Tensor) -> Float[Tensor, "b h w"]:
        """Return the nonconformity at every pixel: how badly the label fits the output.

        The prediction set of a threshold q has all labels whose nonconformity is at most q.

        Args:
            output: output of a method, reduced (``Output.reduced``).
            label: labels ``b d h w`` or ``b h w`` at the size of the output; invalid pixels may
                have any value.
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
            prediction: prediction of this task for the image.
            target: labels of the image, a batch of one.
        """
        return None

    @property
    def error_kind(self) -> ErrorKind | None:
        """The kind of errors that ``pixel_errors`` returns; None if it returns none."""
        return None

    def totals(self, label: Tensor, valid: Mask) -> Mapping[str, float]:
        """Return figures that summarise the label of a whole image, by name.

        They are the ``mean`` value, or for every class its fraction of the pixels (``area.NAME``).

        Args:
            label: values ``d h w`` or class numbers ``h w``.
            valid: pixels that count.
        """
        return {}

    def metric(self) -> Any:
        """Return the task's own metric (``TaskMetric``), for an evaluation without a protocol."""
        from diffsight.tasks.metric import TaskMetric

        return TaskMetric(self)

    @abc.abstractmethod
    def constant(self, label: Maps, valid: Masks) -> Float[Tensor, " d"]:
        """Return the constant prediction that scores best on these labels, such as their mean.

        Args:
            label: labels of a training set, as a batch.
            valid: pixels with a label.
        """

    @abc.abstractmethod
    def baselines(self, labels: LabelMaps) -> Mapping[str, Tensor]:
        """Return predictions that are the same for every image and that a model must beat.

        Args:
            labels: labels of a training set, at one size.

        Returns:
            Label maps by name: ``h w``, or 1 x 1 for a constant; floats or class numbers, like the
            labels. They are ``k h w`` for labels on their own grid. For other labels of several
            channels there are none.
        """

    def comparable_label(self, sample: Sample, hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return a sample's label at the size of the baselines' maps, and its valid pixels.

        The results of several samples are the argument of ``baselines``.

        Args:
            sample: sample of any size.
            hw: height and width of the baselines' maps in pixels.
        """
        label, valid = sample.labels[self.label].double(), sample.valid[self.label].double()
        channels = label[None] if label.ndim == 2 else label
        resized = functional.interpolate(channels[None], hw)[0]
        is_valid = functional.interpolate(valid[None, None], hw)[0, 0] > 0
        return (resized[0] if len(resized) == 1 else resized), is_valid

    def oriented(self, values: Map) -> Map:
        """Return a map, rotated like the pictures of predictions; default: unchanged."""
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
        """Return a picture with image, truth, prediction and error side by side.

        Args:
            image: image in [0, 1].
            truth: label of the image, as ``truth`` returns it.
            prediction: prediction for the image.
        """
        drawn = truth.draw_with(prediction, image)
        return torch.cat([to_pixels(image), *drawn], dim=2)


def masked_mean(values: Float[Tensor, "b h w"], valid: Masks) -> Tensor:
    """Return the mean over the valid pixels; if there are none, a 0 that has a gradient."""
    return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)


def count_classes(labels: LabelMaps, classes: int) -> Tensor:
    """Return how many labels have each class at each pixel position, as ``k h w``."""
    counts = torch.zeros(())
    ids = torch.arange(classes)[:, None, None]
    for values, valid in labels:
        counts = counts + ((values == ids) & valid).int()
    return counts


def distribution_loss(probability: Maps, soft: SoftLabels, valid: Masks) -> Tensor:
    """Return the cross-entropy between soft labels and a distribution, mean over valid pixels.

    Args:
        probability: probability of every class, ``b k h w``.
        soft: soft labels.
        valid: pixels with a label.
    """
    ids, weights = soft.ids.to(probability.device), soft.weights.to(probability)
    weights = torch.where(valid[:, None], weights, 0)  # they may be NaN where labels are invalid
    nll = -probability.clamp(min=MIN_PROBABILITY).log().gather(1, ids)
    return masked_mean((weights * nll).sum(dim=1), valid)


def resize_map(label_map: Tensor, hw: tuple[int, int]) -> Tensor:
    """Return the label map ``h w`` of a baseline at another size, with a batch axis.

    Floats are interpolated (bilinear), and the result is ``1 1 h w``. Class numbers are those of
    the nearest pixels, and the result is ``1 h w``.
    """
    if label_map.is_floating_point():
        return functional.interpolate(label_map[None, None], hw, mode="bilinear")
    return functional.interpolate(label_map[None, None].double(), hw)[0].long()


def unsupported(task: Any, output: Output) -> TypeError:
    """Return the error for an output of a kind that the task does not support."""
    return TypeError(f"{type(task).__name__} has no loss for {type(output).__name__}")
