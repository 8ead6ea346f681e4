"""The metrics that score predictions in the few-shot benchmark."""

import abc
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from diffsight.errors import InputError
from diffsight.metrics import AngleErrors, BinaryIoU, ClassIoU, DepthMetrics, ValueErrors
from diffsight.metrics.depth import NAMES, errors_per_image
from diffsight.ops.resize import resize_image
from diffsight.outputs import Classes, Output, OutputSpec, Values
from diffsight.tasks.base import AbstractTask
from diffsight.types import Target

MIN_DEPTH_M = 1e-3


class AbstractMeasure(abc.ABC):
    """Metrics of a task over images; one of them is the score that compares methods.

    Args:
        task: task whose predictions are scored.
        metric: new metric of ``diffsight.metrics``, which has ``per_image``.

    Attributes:
        name: name of the metric that is the score.
        higher_is_better: whether a higher score is better.
    """

    name: str
    higher_is_better: bool = False

    def __init__(self, task: AbstractTask, metric: Any) -> None:
        self.task = task
        self.metric = metric

    @abc.abstractmethod
    def arguments(self, output: Output, target: Target) -> tuple[Tensor, Tensor]:
        """Return prediction and label as the metric takes them, at the size of the label.

        Args:
            output: output for one image, at any size.
            target: label of that image.
        """

    def update(self, output: Output, target: Target) -> float:
        """Add one image, with an output of any size, and return the score of the image."""
        prediction, label = self.arguments(output, target)
        self.metric.update(prediction, label, target.valid)
        return self.own_score(prediction, label, target)

    def own_score(self, prediction: Tensor, label: Tensor, target: Target) -> float:
        """Return the score of one image, from the results of ``arguments``."""
        return float(self.metric.per_image(prediction, label, target.valid)[0])

    def compute(self) -> dict[str, float]:
        """Return all metrics by name."""
        return {name: float(value) for name, value in self.metric.compute().items()}

    def constant(self, label: Tensor, target: Target) -> Tensor:
        """Return the constant prediction that scores best on these labels."""
        return self.task.constant(label, target.valid)


class TaskMeasure(AbstractMeasure):
    """The task's own metric.

    Args:
        task: task whose predictions are scored.
    """

    def __init__(self, task: AbstractTask) -> None:
        super().__init__(task, task.metric())
        self.name = task.metric_name
        self.higher_is_better = task.higher_is_better

    def arguments(self, output: Output, target: Target) -> tuple[Tensor, Tensor]:
        """Return the prediction in the form of a label, and the label."""
        return self.task.to_label(resize_output(output, target)), target.label

    def update(self, output: Output, target: Target) -> float:
        """Add one image and return its score; an image without a valid pixel scores 0."""
        label, _ = self.arguments(output, target)
        self.metric.update(label, target)
        if not bool(target.valid.any()):
            return 0.0
        return self.task.score(self.task.measure(label, target))


class ValueMeasure(AbstractMeasure):
    """Errors of values, see ``ValueErrors``.

    Args:
        task: task whose predictions are scored.
        name: name of the metric that is the score.
        clip: range to which predictions are clipped; None clips nothing.
    """

    def __init__(
        self,
        task: AbstractTask,
        name: Literal["vtm_mae", "rmse_valid"] = "rmse_valid",
        clip: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(task, ValueErrors(name))
        self.name = name
        self.clip = clip

    def arguments(self, output: Output, target: Target) -> tuple[Tensor, Tensor]:
        """Return the values, clipped to the range."""
        value = resize_values(self.task, output, target)
        return value if self.clip is None else value.clamp(*self.clip), target.label

    def constant(self, label: Tensor, target: Target) -> Tensor:
        """Return the median of every channel for absolute errors, else the task's constant."""
        if self.name == "vtm_mae":
            return label.movedim(1, -1)[target.valid].median(dim=0).values
        return super().constant(label, target)


class AngleMeasure(AbstractMeasure):
    """Angles between directions, see ``AngleErrors``.

    Args:
        task: task whose predictions are scored.
        name: name of the metric that is the score.
    """

    def __init__(
        self, task: AbstractTask, name: Literal["merr_vtm", "merr_true"] = "merr_true"
    ) -> None:
        super().__init__(task, AngleErrors(name))
        self.name = name

    def arguments(self, output: Output, target: Target) -> tuple[Tensor, Tensor]:
        """Return the directions, normalised to length 1."""
        value = resize_values(self.task, output, target)
        return functional.normalize(value, dim=1), target.label


class DepthMeasure(AbstractMeasure):
    """Metric depth, see ``DepthMetrics``; predictions below 1e-3 m count as 1e-3 m.

    Args:
        task: task whose predictions are scored.
    """

    name = "rmse"

    def __init__(self, task: AbstractTask) -> None:
        super().__init__(task, DepthMetrics())

    def arguments(self, output: Output, target: Target) -> tuple[Tensor, Tensor]:
        """Return the depth in metres."""
        depth_m = resize_values(self.task, output, target)[:, 0].clamp(min=MIN_DEPTH_M)
        return depth_m, target.label[:, 0]

    def own_score(self, prediction: Tensor, label: Tensor, target: Target) -> float:
        """Return the root mean squared error in metres."""
        return float(errors_per_image(prediction, label, target.valid)[0, NAMES.index("rmse")])


class ForegroundMeasure(AbstractMeasure):
    """Intersection over union of the second of two classes, see ``BinaryIoU``.

    Args:
        task: task whose predictions are scored.
    """

    name = "iou"
    higher_is_better = True

    def __init__(self, task: AbstractTask) -> None:
        super().__init__(task, BinaryIoU())

    def arguments(self, output: Output, target: Target) -> tuple[Tensor, Tensor]:
        """Return the probability of the second class."""
        return resize_output(output, target).stack[:, 1:], target.label[:, None].float()

    def constant(self, label: Tensor, target: Target) -> Tensor:
        """Return 1, the number of the foreground class, whose IoU is the score."""
        return torch.ones((), dtype=torch.int64)


class ClassMeasure(AbstractMeasure):
    """Mean intersection over union of all classes, see ``ClassIoU``.

    Args:
        task: task whose predictions are scored.
    """

    name = "miou"
    higher_is_better = True

    def __init__(self, task: AbstractTask) -> None:
        super().__init__(task, ClassIoU(map_spec(task).channels))

    def arguments(self, output: Output, target: Target) -> tuple[Tensor, Tensor]:
        """Return the most probable classes."""
        ids = self.task.to_label(resize_output(output, target))
        return ids[:, None], target.label[:, None]


def map_spec(task: AbstractTask) -> OutputSpec:
    """Return the task's first kind of output that is plain maps: values or classes.

    Raises:
        InputError: if the task has no such kind.
    """
    for spec in task.outputs:
        if spec.kind in ("values", "classes"):
            return spec
    raise InputError(
        f"{type(task).__name__} predicts neither values nor classes: leave out the rows that "
        "predict plain maps (constant, mean-map, --predictions)"
    )


def map_output(task: AbstractTask, maps: Float[Tensor, "c h w"]) -> Output:
    """Return maps as the output for one image: values, or probabilities of classes."""
    if map_spec(task).kind == "classes":
        return Classes(maps[None], "probabilities")
    return Values(maps[None])


def resize_output(output: Output, target: Target) -> Output:
    """Return the output, resized to the labels."""
    height, width = target.valid.shape[-2:]
    return output.with_stack(resize_image(output.stack, (height, width)))


def resize_values(task: AbstractTask, output: Output, target: Target) -> Float[Tensor, "1 d h w"]:
    """Return the values of the output, resized to the labels."""
    height, width = target.valid.shape[-2:]
    return resize_image(task.to_label(output), (height, width))
