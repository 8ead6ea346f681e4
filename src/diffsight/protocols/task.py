"""Evaluation by a task's own metric, for tasks and data sets without a published protocol."""

from dataclasses import dataclass
from typing import Any

from torchmetrics import Metric

from diffsight.protocols.base import AbstractProtocol
from diffsight.tasks import AbstractTask, Prediction
from diffsight.types import Target


@dataclass(frozen=True)
class TaskProtocol(AbstractProtocol):
    """The metric of a task over all labelled pixels of a data set.

    Attributes:
        metric_name: of the task's metric, with its unit.
        averaging: ``dataset``: the sums of all images are added up before anything is divided.
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
        """Return one line for a table's caption."""
        return f"{self.title()}, {self.metric_name}, all labelled pixels of the {self.averaging}"

    def metric(self, task: AbstractTask) -> Metric:
        """Return the metric of the task."""
        return task.metric()

    def measure(self, metric: Any, prediction: Prediction, target: Target) -> bool:
        """Add one image; return False if it has no labelled pixel."""
        predicted = prediction.to_label().to(target.label.device)
        metric.update(predicted[None], target)
        return bool(target.valid.any())
