"""How the predictions of a benchmark's task are scored."""

import abc
from typing import Generic, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric

from diffsight.errors import InputError
from diffsight.metrics import AngleErrors, BinaryIoU, ClassIoU, DepthMetrics, ValueErrors
from diffsight.metrics.depth import NAMES, per_image
from diffsight.ops.resize import resized_image
from diffsight.outputs import Classes, Output, OutputSpec, Values
from diffsight.tasks.base import AbstractTask
from diffsight.types import Target

MIN_DEPTH_M = 1e-3


M = TypeVar("M", bound=Metric)


class AbstractMeasure(abc.ABC, Generic[M]):
    """Metrics of a task over some images, one of which compares methods.

    Args:
        task: whose predictions are scored.
        metric: empty.

    Attributes:
        name: of the metric that compares methods.
        higher_is_better: order of that metric.
    """

    name: str
    higher_is_better: bool = False

    def __init__(self, task: AbstractTask, metric: M) -> None:
        self.task = task
        self.metric = metric

    @abc.abstractmethod
    def update(self, output: Output, target: Target) -> float:
        """Add one image and return its own score.

        Args:
            output: of one image, at any size.
            target: of that image; predictions are brought to its size.
        """

    def compute(self) -> dict[str, float]:
        """Return all metrics by name."""
        return {name: float(value) for name, value in self.metric.compute().items()}

    def constant(self, label: Tensor, target: Target) -> Tensor:
        """Return the one value that scores best on these labels."""
        return self.task.constant(label, target.valid)


class TaskMeasure(AbstractMeasure[Metric]):
    """The task's own metric."""

    def __init__(self, task: AbstractTask) -> None:
        super().__init__(task, task.metric())
        self.name = task.metric_name
        self.higher_is_better = task.higher_is_better

    def update(self, output: Output, target: Target) -> float:
        """Add the prediction in the form of a label."""
        label = self.task.to_label(resized_output(output, target))
        self.metric.update(label, target)
        if not bool(target.valid.any()):
            return 0.0
        return self.task.score(self.task.measure(label, target))


class ValueMeasure(AbstractMeasure[ValueErrors]):
    """Errors of numbers, see ``ValueErrors``.

    Args:
        task: whose predictions are scored.
        name: of the metric that compares methods.
        clip: range that predictions are cut to.
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

    def update(self, output: Output, target: Target) -> float:
        """Add the numbers, cut to the range."""
        value = resized_values(self.task, output, target)
        if self.clip is not None:
            value = value.clamp(*self.clip)
        self.metric.update(value, target.label, target.valid)
        return float(self.metric.per_image(value, target.label, target.valid)[0])

    def constant(self, label: Tensor, target: Target) -> Tensor:
        """Return the median of every channel under absolute errors, else what the task says."""
        if self.name == "vtm_mae":
            return label.movedim(1, -1)[target.valid].median(dim=0).values
        return super().constant(label, target)


class AngleMeasure(AbstractMeasure[AngleErrors]):
    """Angles between directions, see ``AngleErrors``.

    Args:
        task: whose predictions are scored.
        name: of the metric that compares methods.
    """

    def __init__(
        self, task: AbstractTask, name: Literal["merr_vtm", "merr_true"] = "merr_true"
    ) -> None:
        super().__init__(task, AngleErrors(name))
        self.name = name

    def update(self, output: Output, target: Target) -> float:
        """Add the directions."""
        value = functional.normalize(resized_values(self.task, output, target), dim=1)
        self.metric.update(value, target.label, target.valid)
        return float(self.metric.per_image(value, target.label, target.valid)[0])


class DepthMeasure(AbstractMeasure[DepthMetrics]):
    """Metric depth, see ``DepthMetrics``; smaller predictions count as 1e-3 m."""

    name = "rmse"

    def __init__(self, task: AbstractTask) -> None:
        super().__init__(task, DepthMetrics())

    def update(self, output: Output, target: Target) -> float:
        """Add the depth in metres."""
        depth_m = resized_values(self.task, output, target)[:, 0].clamp(min=MIN_DEPTH_M)
        truth_m = target.label[:, 0]
        self.metric.update(depth_m, truth_m, target.valid)
        return float(per_image(depth_m, truth_m, target.valid)[0, NAMES.index("rmse")])


class ForegroundMeasure(AbstractMeasure[BinaryIoU]):
    """Intersection over union of the second of two classes, see ``BinaryIoU``."""

    name = "iou"
    higher_is_better = True

    def __init__(self, task: AbstractTask) -> None:
        super().__init__(task, BinaryIoU())

    def update(self, output: Output, target: Target) -> float:
        """Add the probability of the second class."""
        probability = resized_output(output, target).stack[:, 1:]
        label = target.label[:, None].float()
        self.metric.update(probability, label, target.valid)
        return float(self.metric.per_image(probability, label, target.valid)[0])

    def constant(self, label: Tensor, target: Target) -> Tensor:
        """Return the foreground, whose IoU is scored."""
        return torch.ones((), dtype=torch.int64)


class ClassMeasure(AbstractMeasure[ClassIoU]):
    """Intersection over union of all classes, see ``ClassIoU``."""

    name = "miou"
    higher_is_better = True

    def __init__(self, task: AbstractTask) -> None:
        super().__init__(task, ClassIoU(map_spec(task).channels))

    def update(self, output: Output, target: Target) -> float:
        """Add the most probable classes."""
        ids = self.task.to_label(resized_output(output, target))[:, None]
        label = target.label[:, None]
        self.metric.update(ids, label, target.valid)
        return float(self.metric.per_image(ids, label, target.valid)[0])


def map_spec(task: AbstractTask) -> OutputSpec:
    """Return the form of a prediction that is plain maps: values, or probabilities of classes.

    Raises:
        InputError: if the task has none.
    """
    for spec in task.outputs:
        if spec.kind in ("values", "classes"):
            return spec
    raise InputError(
        f"{type(task).__name__} predicts neither values nor classes: leave out the rows that "
        "predict plain maps (constant, mean-map, --predictions)"
    )


def map_output(task: AbstractTask, maps: Float[Tensor, "c h w"]) -> Output:
    """Return maps as the prediction for one image: values, or probabilities of classes."""
    if map_spec(task).kind == "classes":
        return Classes(maps[None], "probabilities")
    return Values(maps[None])


def resized_output(output: Output, target: Target) -> Output:
    """Return the output at the size of the labels."""
    height, width = target.valid.shape[-2:]
    return output.with_stack(resized_image(output.stack, (height, width)))


def resized_values(task: AbstractTask, output: Output, target: Target) -> Float[Tensor, "1 d h w"]:
    """Return the numbers of the output at the size of the labels."""
    height, width = target.valid.shape[-2:]
    return resized_image(task.to_label(output), (height, width))
