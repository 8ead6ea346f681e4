"""Evaluation with the metric of a task, for data sets without a published protocol."""

from dataclasses import dataclass
from typing import Any

from torchmetrics import Metric

from diffsight.protocols.base import AbstractProtocol
from diffsight.tasks import AbstractTask, Prediction
from diffsight.types import Target


@dataclass(frozen=True)
class TaskProtocol(AbstractProtocol):
    """The rule to score a task with its own metric over all labelled pixels of a data set.

    Attributes:
        metric_name: name of the task's metric with its unit.
        averaging: ``dataset``: the sums are taken over all images before they are divided.
    """

    metric_name: str
    averaging: str = "dataset"

    @classmethod
    def of(cls, task: AbstractTask) -> "TaskProtocol":
        """Return the protocol of a task."""
        return cls(
            name=f"{type(task).__name__} metric",
            split="any",
            plan="any",
            metric_name=task.metric_name,
        )

    def describe(self) -> str:
        """Return one line for the caption of a table."""
        return f"{self.title()}, {self.metric_name}, all labelled pixels of the {self.averaging}"

    def metric(self, task: AbstractTask) -> Metric:
        """Return the metric of the task."""
        return task.metric()

    def measure(self, metric: Any, prediction: Prediction, target: Target) -> bool:
        """Add one image; return whether it has a labelled pixel."""
        predicted = prediction.to_label().to(target.label.device)
        metric.update(predicted[None], target)
        return bool(target.valid.any())
