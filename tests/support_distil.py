"""A teacher that needs no training, and images for its student."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffsight.methods import AbstractMethod
from diffsight.model import DenseModel
from diffsight.outputs import (
    Classes,
    Distribution,
    Moments,
    Output,
    OutputSpec,
    Values,
    expectation,
)
from diffsight.tasks import AbstractTask, Depth
from diffsight.types import Draws, Encoded, Inputs, Target
from tests.support_adapt import write_pictures

STD = 0.4  # standard deviation of the teacher's distributions


class BrightnessMethod(AbstractMethod):
    """A method without training: values are 1 to 4, classes go from dark to bright.

    Args:
        output: specification of the output.
        has_moments: whether values have a standard deviation, which grows to the right.
    """

    output_kinds = ("distribution", "values", "classes")
    passes = 0  # of all objects together

    def __init__(self, *, output: OutputSpec, has_moments: bool = False) -> None:
        super().__init__()
        self.spec = output
        self.has_moments = has_moments
        self.scale = torch.nn.Parameter(torch.tensor(3.0))

    def forward(
        self,
        inputs: Inputs,
        encoded: Encoded | None = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Output:
        """Return the output."""
        type(self).passes += 1
        bright = inputs.image.mean(dim=1, keepdim=True)
        value = 1 + self.scale * bright
        if self.spec.kind == "classes":
            positions = torch.linspace(0, 1, self.spec.channels)[:, None, None]
            return Classes(-((bright - positions) ** 2) * 20)
        if self.spec.kind == "values":
            value = value.expand(-1, self.spec.channels, -1, -1)
            return self._with_moments(value) if self.has_moments else Values(value)
        assert self.spec.codec is not None
        centres = self.spec.codec.centres
        distance = (value - centres.mean(dim=1)[:, None, None]) / STD
        probability = (-(distance**2) / 2).softmax(dim=1)
        return Distribution(probability, expectation(probability, centres[None]), centres)

    def _with_moments(self, value: Tensor) -> Moments:
        std = torch.linspace(0.1, 1, value.shape[-1]).expand(value.shape)
        return Moments(value, value, value**2 + std**2, torch.zeros(value.shape[1]))


def brightness_teacher(task: AbstractTask | None = None, **options: Any) -> DenseModel:
    """Return the teacher; its training images had a shorter side of 32 pixels."""
    task = task or Depth(max_depth_m=8.0, bins=8).fitted(torch.linspace(0.9, 4.2, 300)[:, None])
    model = DenseModel(task=task, method=lambda output: BrightnessMethod(output=output, **options))
    model.info = {"short_side": 32, "kind": "depth", "unit": "m", "license": "cc-by-4.0"}
    return model.eval()


def write_unlabelled(folder: Path, count: int = 11, **options: Any) -> list[Path]:
    """Write images of bright squares; return their paths."""
    data = write_pictures(folder, count=count, **options)
    return sorted((data / "images").iterdir(), key=lambda path: int(path.stem))
