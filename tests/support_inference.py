"""Methods whose outputs are easy to compute, a calibration, and images of people."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

from diffsight.errors import InputError
from diffsight.methods.base import AbstractMethod
from diffsight.model import DenseModel
from diffsight.outputs import (
    Classes,
    Distribution,
    Heatmaps,
    Output,
    OutputSpec,
    Values,
    expectation,
)
from diffsight.tasks import Depth, Pose
from diffsight.types import Draws, Inputs, Target

CALIBRATION: dict[str, Any] = {
    "images": 9,
    "confidence": [0.5, 0.8, 0.9],
    "q": [0.1, 0.25, 1.25],
    # residuals of 0 are not stored, so two of the nine are missing
    "residuals": {"mean": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]},
}
HANDS = ("left_hand", "right_hand")
LEFT, RIGHT = ((20.0, 30.0), (34.0, 52.0)), ((80.0, 60.0), (97.5, 41.0))
BOXES = [[12.0, 22.0, 42.0, 60.0], [70.0, 32.0, 108.0, 70.0]]


def calibrated(**changes: Any) -> dict[str, Any]:
    """Return ``DenseModel.info`` with ``CALIBRATION``, of which ``changes`` replace entries."""
    return {"calibration": {**CALIBRATION, **changes}}


class Brightness(AbstractMethod):
    """Predict 1 + the mean of the colours of each pixel, so windows and flips change nothing."""

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


class Jitter(Brightness):
    """Predict a depth that differs between the seeds of the noise."""

    uses_noise = True

    def forward(
        self,
        inputs: Inputs,
        encoded: Any = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Output:
        assert draws is not None
        output = super().forward(inputs)
        noise = draws.uniform(0).to(output.stack)
        return output.with_stack(output.stack + noise[:, None, None, None])


class Columns(AbstractMethod):
    """Predict 1 + the column of the pixel in its window, so the output shows the windows."""

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
    """Predict a random 5 x 5 convolution plus an offset that depends on the prompt."""

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
    """Predict logits of classes with a random 5 x 5 convolution."""

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
    """Predict the softmax of ``Logits`` as a distribution over classes."""

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
    """Return a depth model with this method."""
    return DenseModel(task=Depth(), method=method)


class Spots(AbstractMethod):
    """Predict the left hand at red spots and the right hand at green spots."""

    output_kinds = ("heatmaps",)

    def __init__(self, *, output: OutputSpec) -> None:
        super().__init__()
        self.stride = output.stride
        self.weight = nn.Parameter(torch.ones(1))

    def forward(
        self,
        inputs: Inputs,
        encoded: Any = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Output:
        height, width = inputs.image.shape[-2:]
        hw = (-(-height // self.stride), -(-width // self.stride))
        maps = functional.interpolate(inputs.image[:, :2], hw, mode="bilinear", align_corners=True)
        return Heatmaps(maps * self.weight, self.stride)


def pose_model() -> DenseModel:
    """Return a pose model with two joints, the hands, which finds red and green spots."""
    task = Pose(names=HANDS, sigmas=(0.05, 0.05), limbs=[(0, 1)], height=64, width=64, stride=2)
    return DenseModel(task=task, method=partial(Spots))


def draw_people(*people: tuple[tuple[float, float], tuple[float, float]]) -> torch.Tensor:
    """Return a black image; each person is a red and a green spot at x and y of the two hands."""
    rows, columns = torch.meshgrid(torch.arange(90.0), torch.arange(120.0), indexing="ij")
    image = torch.zeros(3, 90, 120)
    for hands in people:
        for channel, (x, y) in enumerate(hands):
            image[channel] += torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 2 / 2.5**2)
    return image.clamp(0, 1)


def write_detector(folder: Path, names: Mapping[int, str], *, bias: float) -> None:
    """Write a small person detector with random weights.

    Args:
        folder: folder to write.
        names: names of the classes by number.
        bias: bias of the logits; at 3 every query is a person, at -9 none is.
    """
    torch.manual_seed(0)
    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = RTDetrConfig(
        backbone_config=backbone, encoder_hidden_dim=16, encoder_in_channels=[8, 8, 8],
        d_model=16, num_queries=12, decoder_in_channels=[16, 16, 16], encoder_ffn_dim=16,
        decoder_ffn_dim=16, decoder_layers=1, encoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, id2label=dict(names),
        label2id={name: number for number, name in names.items()},
    )  # fmt: skip
    network = RTDetrForObjectDetection(config)
    for name, weight in network.named_parameters():
        if "class_embed" in name and name.endswith("bias"):
            weight.data.fill_(bias)
    network.save_pretrained(folder)
