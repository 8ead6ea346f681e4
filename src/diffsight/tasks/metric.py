"""The metric of a task over a data set.

It has its own module, because torchmetrics imports matplotlib if it is installed, and predicting
needs neither.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

from diffsight.tasks.base import AbstractTask
from diffsight.types import Target


class TaskMetric(Metric):
    """The metric of a task over a data set, accumulated over all pixels.

    Args:
        task: task whose ``measure`` and ``figures`` are used.
    """

    full_state_update = False

    def __init__(self, task: AbstractTask) -> None:
        super().__init__()
        self.task = task
        self.add_state("sums", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, label: Tensor, target: Target) -> None:
        """Add a batch of predictions, in the form that ``AbstractTask.to_label`` returns."""
        self.sums = self.sums + self.task.measure(label, target).cpu()

    def compute(self) -> dict[str, Tensor]:
        """Return the task's figures by name."""
        figures = self.task.figures(self.sums)
        return {name: torch.tensor(value) for name, value in figures.items()}
