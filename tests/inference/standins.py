"""Methods of known behaviour, so that the tests can say what must come out."""

from typing import Any

import torch
from torch import nn

from diffsight.errors import InputError
from diffsight.methods.base import AbstractMethod
from diffsight.model import DenseModel
from diffsight.outputs import Classes, Distribution, Output, OutputSpec, Values, expectation
from diffsight.tasks import Depth
from diffsight.types import Draws, Inputs, Target


class Brightness(AbstractMethod):
    """Depth = 1 + mean of the colours: pointwise, so windows and flips change nothing."""

    output_kinds = ("values",)

    def __init__(self, *, output: OutputSpec) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(output.channels))
        self.batches: list[tuple[int, ...]] = []

    def forward(
        self,
        inputs: Inputs,
        encoded: Any = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Output:
        self.batches.append(tuple(inputs.image.shape))
        maps = inputs.image.mean(dim=1, keepdim=True) + self.bias[:, None, None]
        return Values(maps.expand(-1, len(self.bias), -1, -1))


class Columns(AbstractMethod):
    """Depth = 1 + column in the window: nothing in it but where a pass looked."""

    output_kinds = ("values",)

    def __init__(self, *, output: OutputSpec) -> None:
        super().__init__()
        self.channels = output.channels

    def forward(
        self,
        inputs: Inputs,
        encoded: Any = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Output:
        batch, _, height, width = inputs.image.shape
        columns = torch.arange(width, dtype=torch.float32) + 1
        return Values(columns.expand(batch, self.channels, height, width))


class Blur(AbstractMethod):
    """A random convolution with a prompt's offset: looks at neighbours, like a real method."""

    output_kinds = ("values",)
    accepts_prompt = True
    names = ("kitchen", "office")

    def __init__(self, *, output: OutputSpec) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, output.channels, 5, padding=2)
        generator = torch.Generator().manual_seed(0)
        nn.init.normal_(self.conv.weight, std=0.1, generator=generator)
        nn.init.ones_(self.conv.bias)

    def forward(
        self,
        inputs: Inputs,
        encoded: Any = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Output:
        assert inputs.prompts is not None
        unknown = {p for p in inputs.prompts if p is not None} - set(self.names)
        if unknown:
            raise InputError(f"unknown name {unknown}: the text table has {self.names}")
        offsets = [0.0 if p is None else 1.0 + self.names.index(p) for p in inputs.prompts]
        maps = self.conv(inputs.image) + torch.tensor(offsets)[:, None, None, None]
        return Values(maps.abs() + 0.1)


class Logits(AbstractMethod):
    """Logits of a random convolution, for classes and masks."""

    output_kinds = ("classes",)

    def __init__(self, *, output: OutputSpec) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, output.channels, 5, padding=2)
        generator = torch.Generator().manual_seed(0)
        nn.init.normal_(self.conv.weight, generator=generator)

    def forward(
        self,
        inputs: Inputs,
        encoded: Any = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Output:
        return Classes(self.conv(inputs.image))


class Probabilities(Logits):
    """The same as a distribution over the classes."""

    output_kinds = ("distribution", "classes")

    def __init__(self, *, output: OutputSpec) -> None:
        super().__init__(output=output)
        self.spec = output

    def forward(
        self,
        inputs: Inputs,
        encoded: Any = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Output:
        probability = self.conv(inputs.image).softmax(dim=1)
        if self.spec.codec is None:
            return Classes(probability, "probabilities")
        centres = self.spec.codec.centres
        return Distribution(probability, expectation(probability, centres[None]), centres)


def model(method: type[AbstractMethod]) -> DenseModel:
    return DenseModel(task=Depth(), method=method)
