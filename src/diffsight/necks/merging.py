"""Merges four levels into one map at the stride of the third level (VPD, depth)."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from diffsight.errors import InputError
from diffsight.necks.base import AbstractNeck
from diffsight.ops.layers import start_convolutions
from diffsight.types import Pyramid


class Merging(AbstractNeck):
    """Resizes four levels to the stride of the third one, and mixes them by a 1 x 1 convolution.

    Strided convolutions reduce the two finer levels; interpolation doubles the coarsest one. VPD,
    depth: 320, 640, 1280 and 1280 channels at strides 8, 16, 32 and 64 become 1536 channels at
    stride 32.

    Args:
        in_channels: channels of the four levels, finest first.
        strides: strides of the levels.
        width: channels of the output.
        groups: groups of the group normalisations.

    Raises:
        InputError: for another number of levels.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        strides: Sequence[int],
        width: int = 1536,
        groups: int = 16,
    ) -> None:
        super().__init__()
        if len(in_channels) != 4:
            raise InputError(
                f"Merging takes a pyramid of 4 levels, not {len(in_channels)}: choose another neck"
            )
        finest, second, third, coarsest = in_channels
        # group normalisation needs a multiple of its groups; attention maps may add odd channels
        inner = finest // groups * groups
        self.level0 = nn.Sequential(
            nn.Conv2d(finest, inner, 3, stride=2, padding=1),
            nn.GroupNorm(groups, inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, stride=2, padding=1),
        )
        self.level1 = nn.Conv2d(second, second, 3, stride=2, padding=1)
        self.mix = nn.Sequential(
            nn.Conv2d(inner + second + third + coarsest, width, 1),
            nn.GroupNorm(groups, width),
            nn.ReLU(),
        )
        self.out_channels, self.out_strides = (width,), (strides[2],)
        start_convolutions(self, partial(nn.init.trunc_normal_, std=0.02))

    def forward(self, pyramid: Pyramid) -> Pyramid:
        """Return one level at the stride of the third one."""
        finest, second, third, coarsest = pyramid.features
        doubled = functional.interpolate(coarsest, size=third.shape[-2:], mode="nearest")
        parts = [self.level0(finest), self.level1(second), third, doubled]
        merged = self.mix(torch.cat(parts, dim=1))
        return Pyramid((merged,), self.out_strides, pyramid.valid_hw)
