"""DenseModel: one task and one method; what is trained, saved, loaded and asked for predictions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffsight.config import Configurable
from diffsight.methods.base import MethodBuilder
from diffsight.tasks.base import AbstractTask
from diffsight.types import Draws, Inputs, RawOutput, Target


class DenseModel(nn.Module, Configurable):
    """A task and the method that solves it.

    Args:
        task: what the numbers mean.
        method: builder of the architecture; the task tells it how many channels to give.
    """

    def __init__(self, *, task: AbstractTask, method: MethodBuilder) -> None:
        super().__init__()
        self.task = task
        self.method = method(num_outputs=task.num_outputs)

    def forward(
        self, inputs: Inputs, target: Target | None = None, *, draws: Draws | None = None
    ) -> RawOutput:
        """The method's output, see ``AbstractMethod.forward``."""
        return self.method(inputs, target, draws=draws)

    def losses(
        self, inputs: Inputs, target: Target, *, draws: Draws | None = None
    ) -> dict[str, Tensor]:
        """Scalars by name; ``loss`` is the one to minimise."""
        return self.task.loss(self(inputs, target, draws=draws), target)

    @torch.no_grad()
    def predict(self, inputs: Inputs, *, draws: Draws | None = None) -> Sequence[Any]:
        """One prediction per image from one pass; windows and flips are in ``inference``."""
        return self.task.decode(self(inputs, draws=draws))
