"""A tiny method and data set, on which a training of a few steps takes under a second."""

import csv
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffsight.backbones import PretrainedPart
from diffsight.datasets.base import AbstractDataset, AbstractTransform, Sample
from diffsight.errors import InputError
from diffsight.methods.base import AbstractMethod
from diffsight.outputs import OutputSpec, Values
from diffsight.tasks import Depth
from diffsight.training.checkpoints import load
from diffsight.training.fit import Fitted, fit
from diffsight.training.optim import AdamW
from diffsight.types import Draws, Encoded, Inputs, Target


class Stripes(AbstractDataset):
    """Random images whose depth is 1 m plus a hundredth of the brightness of each pixel."""

    name = "stripes"

    def __init__(self, *, length: int = 12, side: int = 8, broken: int | None = None) -> None:
        self.length, self.side, self.broken = length, side, broken

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if index == self.broken:
            raise InputError(f"stripe_{index}.png: truncated: copy it again")
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, self.side, self.side), generator=generator)
        depth_m = 1 + image.float().mean(dim=0, keepdim=True) / 100
        valid = torch.ones(self.side, self.side, dtype=torch.bool)
        return Sample(
            f"stripe_{index}", image.to(torch.uint8), {"depth_m": depth_m}, {"depth_m": valid}
        )


class Noise(AbstractTransform):
    """Add random noise to the image, so that tests see which random numbers were used."""

    def __init__(self, *, size: int = 20) -> None:
        self.size = size

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        noise = torch.randint(0, self.size, sample.image.shape, generator=generator)
        image = (sample.image + noise).clamp(0, 255).to(torch.uint8)
        return Sample(sample.id, image, sample.labels, sample.valid)


class Frozen(PretrainedPart):
    """A frozen convolution with fixed weights, as if they came with the package."""

    def __init__(self, *, weights: str | None = "tiny") -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.requires_grad_(False)
        if weights is not None:
            self.load_weights(weights)

    def load_weights(self, source: str | Path, *, revision: str | None = None) -> None:
        """Set the fixed weights, whatever ``source`` is."""
        generator = torch.Generator().manual_seed(5)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)
        self.source = str(source)


class Tiny(AbstractMethod):
    """A method with batch norm and dropout, so its state has running means and random numbers."""

    output_kinds = ("values",)

    def __init__(self, *, output: OutputSpec, width: int = 4, dropout: float = 0.2) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"unet": nn.Conv2d(3, width, 3, padding=1)})
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.fixed = nn.Linear(2, 2).requires_grad_(False)
        self.head = nn.Conv2d(width, output.channels, 1)

    def forward(
        self,
        inputs: Inputs,
        encoded: Any = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Values:
        x = self.dropout(self.norm(self.backbone["unet"](inputs.image)))
        return Values(nn.functional.softplus(self.head(x)) + 0.01)


class FrozenTiny(Tiny):
    """``Tiny`` on the output of a frozen part."""

    def __init__(
        self, *, output: OutputSpec, part: Frozen, width: int = 4, dropout: float = 0.2
    ) -> None:
        super().__init__(output=output, width=width, dropout=dropout)
        self.part = part

    def frozen(self) -> dict[str, PretrainedPart]:
        return {"part": self.part}

    def forward(
        self,
        inputs: Inputs,
        encoded: Any = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Values:
        return super().forward(replace(inputs, image=self.part.conv(inputs.image)))


@dataclass(frozen=True)
class EncodedImage(Encoded):
    """The output of the frozen part."""

    features: Tensor


class Measured(FrozenTiny):
    """``FrozenTiny`` with the mean of its frozen features."""

    def __init__(
        self, *, output: OutputSpec, part: Frozen, width: int = 4, dropout: float = 0.2
    ) -> None:
        super().__init__(output=output, part=part, width=width, dropout=dropout)
        self.register_buffer("mean", torch.zeros(3))

    def encode(self, inputs: Inputs) -> EncodedImage:
        return EncodedImage(self.part.conv(inputs.image))

    def fit_statistics(self, encoded: Any, class_frequencies: Any) -> None:
        self.mean.copy_(torch.cat([each.features for each in encoded]).mean(dim=(0, 2, 3)))


def short(out: Path, **changes: Any) -> Fitted | None:
    """Train ``Tiny`` for three steps, or with other arguments of ``fit``."""
    settings = {
        "task": Depth(),
        "method": partial(Tiny),
        "train": Stripes(),
        "val": Stripes(length=2),
        "optim": AdamW(lr=1e-2),
        "out": out,
        "batch_size": 4,
        "steps": 3,
        "workers": 0,
        "device": "cpu",
    }
    return fit(**(settings | changes))


def metrics(folder: Path) -> list[dict[str, str]]:
    """Return the rows of ``metrics.csv`` of a run."""
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights in the last checkpoint of a run."""
    return load(folder / "last.ckpt")["state_dict"]


@pytest.fixture
def stripes() -> Stripes:
    return Stripes()
