"""``TaskMetric``: the metrics of a task over a data set, as a torchmetrics metric.

It has its own module, because torchmetrics imports matplotlib if that is installed, and a
prediction needs neither of them.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

from diffsight.tasks.base import AbstractTask
from diffsight.types import Target


class TaskMetric(Metric):
    """The metrics of a task over a data set, accumulated over all pixels.

    Args:
        task: task whose ``measure`` and ``figures`` are used.
    """

    full_state_update = False

    def __init__(self, task: AbstractTask) -> None:
        super().__init__()
        self.task = task
        self.add_state("sums", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, label: Tensor, target: Target) -> None:
        """Add a batch of predictions.

        Args:
            label: predicted labels, as ``AbstractTask.to_label`` returns them.
            target: true labels.
        """
        self.sums = self.sums + self.task.measure(label, target).cpu()

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics by name and unit, see ``AbstractTask.figures``."""
        figures = self.task.figures(self.sums)
        return {name: torch.tensor(value) for name, value in figures.items()}
