"""Evaluation with the metric of a task, for data sets without a published protocol."""

from dataclasses import dataclass
from typing import Any

from torchmetrics import Metric

from diffsight.protocols.base import AbstractProtocol
from diffsight.tasks import AbstractTask, Prediction
from diffsight.types import Target


@dataclass(frozen=True)
class TaskProtocol(AbstractProtocol):
    """Rules for scoring any task with its default metric, over all labelled pixels.

    Attributes:
        metric_name: name of the task's metric with its unit.
        averaging: ``dataset``: the sums are taken over all images before they are divided.
    """

    metric_name: str
    averaging: str = "dataset"

    @classmethod
    def of(cls, task: AbstractTask) -> "TaskProtocol":
        """Return the protocol that scores a task with its default metric."""
        return cls(
            name=f"{type(task).__name__} metric",
            split="any",
            plan="any",
            metric_name=task.metric_name,
        )

    def describe(self) -> str:
        """Return a summary of the rules in one line, for the caption of a table of results."""
        return f"{self.title()}, {self.metric_name}, all labelled pixels of the {self.averaging}"

    def metric(self, task: AbstractTask) -> Metric:
        """Return the metric of the task."""
        return task.metric()

    def measure(self, metric: Any, prediction: Prediction, target: Target) -> bool:
        """Add one image to the metric; return whether it has a labelled pixel."""
        predicted = prediction.to_label().to(target.label.device)
        metric.update(predicted[None], target)
        return bool(target.valid.any())
