"""Methods of known behaviour, so that the tests can say what must come out."""

import torch
from torch import nn

from diffsight.errors import InputError
from diffsight.methods.base import AbstractMethod
from diffsight.model import DenseModel
from diffsight.tasks.depth import MetricDepth
from diffsight.types import Draws, Inputs, RawOutput, Target


class Brightness(AbstractMethod):
    """Depth = 1 + mean of the colours: pointwise, so windows and flips change nothing."""

    def __init__(self, *, num_outputs: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(num_outputs))
        self.batches: list[tuple[int, ...]] = []

    def forward(
        self, inputs: Inputs, target: Target | None = None, *, draws: Draws | None = None
    ) -> RawOutput:
        self.batches.append(tuple(inputs.image.shape))
        maps = inputs.image.mean(dim=1, keepdim=True) + self.bias[:, None, None]
        return RawOutput(maps.expand(-1, len(self.bias), -1, -1), "value")


class Columns(AbstractMethod):
    """Depth = 1 + column in the window it was given: nothing here but where a pass looked."""

    def __init__(self, *, num_outputs: int) -> None:
        super().__init__()
        self.num_outputs = num_outputs

    def forward(
        self, inputs: Inputs, target: Target | None = None, *, draws: Draws | None = None
    ) -> RawOutput:
        batch, _, height, width = inputs.image.shape
        columns = torch.arange(width, dtype=torch.float32) + 1
        return RawOutput(columns.expand(batch, self.num_outputs, height, width), "value")


class Blur(AbstractMethod):
    """A random convolution with a prompt's offset: looks at neighbours, like a real method."""

    names = ("kitchen", "office")

    def __init__(self, *, num_outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, num_outputs, 5, padding=2)
        generator = torch.Generator().manual_seed(0)
        nn.init.normal_(self.conv.weight, std=0.1, generator=generator)
        nn.init.ones_(self.conv.bias)

    def forward(
        self, inputs: Inputs, target: Target | None = None, *, draws: Draws | None = None
    ) -> RawOutput:
        assert inputs.prompts is not None
        unknown = {p for p in inputs.prompts if p is not None} - set(self.names)
        if unknown:
            raise InputError(f"unknown name {unknown}: the text table has {self.names}")
        offsets = [0.0 if p is None else 1.0 + self.names.index(p) for p in inputs.prompts]
        maps = self.conv(inputs.image) + torch.tensor(offsets)[:, None, None, None]
        return RawOutput(maps.abs() + 0.1, "value")


def model(method: type[AbstractMethod]) -> DenseModel:
    return DenseModel(task=MetricDepth(), method=method)


class Logits(AbstractMethod):
    """Logits of a random convolution, for classes and masks."""

    def __init__(self, *, num_outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, num_outputs, 5, padding=2)
        generator = torch.Generator().manual_seed(0)
        nn.init.normal_(self.conv.weight, generator=generator)

    def forward(
        self, inputs: Inputs, target: Target | None = None, *, draws: Draws | None = None
    ) -> RawOutput:
        return RawOutput(self.conv(inputs.image), "logits")
