"""The metric of a task over a data set.

In a file of its own: torchmetrics imports matplotlib where it is installed, which running a model
does not need.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

from diffsight.tasks.base import AbstractTask
from diffsight.types import Target


class TaskMetric(Metric):
    """The metric of a task over a data set, summed over all pixels."""

    full_state_update = False

    def __init__(self, task: AbstractTask) -> None:
        super().__init__()
        self.task = task
        self.add_state("sums", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, label: Tensor, target: Target) -> None:
        """Add a batch; ``label`` is what ``AbstractTask.to_label`` gives."""
        self.sums = self.sums + self.task.measure(label, target).cpu()

    def compute(self) -> dict[str, Tensor]:
        """Return the task's figures by their names."""
        return {name: torch.tensor(one) for name, one in self.task.figures(self.sums).items()}
