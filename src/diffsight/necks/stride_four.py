"""Joins all levels into one map at the finest stride, which conditions DDP's decoder."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional

from diffsight.necks.base import AbstractNeck
from diffsight.ops.layers import start_convolutions
from diffsight.types import Pyramid

GROUPS = 32


class NormalisedFPN(AbstractNeck):
    """A feature pyramid network with group normalisation, whose levels are joined into one map.

    DDP: four levels become 256 channels at stride 4.

    Args:
        in_channels: channels of the levels, finest first.
        strides: strides of the levels.
        width: channels of every level, and of the output map.
    """

    def __init__(
        self, *, in_channels: Sequence[int], strides: Sequence[int], width: int = 256
    ) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_normalised(channels, width, 1) for channels in in_channels)
        self.output = nn.ModuleList(_normalised(width, width, 3) for _ in in_channels)
        self.join = _normalised(width * len(in_channels), width, 1)
        self.out_channels, self.out_strides = (width,), (strides[0],)
        start_convolutions(self, nn.init.xavier_uniform_)

    def forward(self, pyramid: Pyramid) -> Pyramid:
        """Return a pyramid of one map at the finest stride."""
        levels = [lateral(x) for lateral, x in zip(self.lateral, pyramid.features, strict=True)]
        for fine in range(len(levels) - 2, -1, -1):
            above = functional.interpolate(levels[fine + 1], levels[fine].shape[-2:])
            levels[fine] = levels[fine] + above
        levels = [output(x) for output, x in zip(self.output, levels, strict=True)]
        size = levels[0].shape[-2:]
        joined = torch.cat(
            [functional.interpolate(x, size, mode="bilinear", align_corners=False) for x in levels],
            dim=1,
        )
        return replace(pyramid, features=(self.join(joined),), strides=self.out_strides)


def _normalised(channels: int, width: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(min(GROUPS, width), width))
