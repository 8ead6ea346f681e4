"""A tiny method and data set: a run of a few steps takes well under a second."""

import pytest
import torch
from torch import nn

from diffsight.datasets.base import AbstractDataset, AbstractTransform, Sample
from diffsight.errors import InputError
from diffsight.methods.base import AbstractMethod
from diffsight.types import Draws, Inputs, RawOutput, Target


class Stripes(AbstractDataset):
    """Depth is a function of the image's brightness."""

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
    """Adds noise, to see that augmentation continues where it stopped."""

    def __init__(self, *, size: int = 20) -> None:
        self.size = size

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        noise = torch.randint(0, self.size, sample.image.shape, generator=generator)
        image = (sample.image + noise).clamp(0, 255).to(torch.uint8)
        return Sample(sample.id, image, sample.labels, sample.valid)


class Tiny(AbstractMethod):
    """Convolution, batch norm, dropout: running means and random numbers are part of its state."""

    def __init__(self, *, num_outputs: int, width: int = 4, dropout: float = 0.2) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"unet": nn.Conv2d(3, width, 3, padding=1)})
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.head = nn.Conv2d(width, num_outputs, 1)

    def forward(
        self, inputs: Inputs, target: Target | None = None, *, draws: Draws | None = None
    ) -> RawOutput:
        x = self.dropout(self.norm(self.backbone["unet"](inputs.image)))
        return RawOutput(nn.functional.softplus(self.head(x)) + 0.01, "value")


@pytest.fixture
def stripes() -> Stripes:
    return Stripes()
