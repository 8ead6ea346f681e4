"""Inverse multi-attentive feature refinement, from fine to coarse levels (EVP, section 3.2)."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsight.errors import InputError
from diffsight.necks.base import AbstractNeck
from diffsight.ops.layers import start_convolutions
from diffsight.types import Pyramid


class IMAFR(AbstractNeck):
    """Mixes each level with the next finer one, after attention over pixels and over channels.

    Sizes and channels of the levels stay the same. Differs from the paper: the finest level goes
    through a convolution after its attention, and the two group normalisations of a halving share
    their weights. Both follow the authors' code.

    Args:
        in_channels: channels of the levels, finest first. ``groups`` must divide the channels of
            each level, and half the channels of all levels but the coarsest.
        strides: strides of the levels.
        groups: groups of the group normalisations.
        init_std: standard deviation of the truncated normal distribution that initialises the
            convolutions (depth); None uses PyTorch's default (referring segmentation).

    Raises:
        InputError: if ``groups`` does not divide the channels as described.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        strides: Sequence[int],
        groups: int = 20,
        init_std: float | None = 0.02,
    ) -> None:
        super().__init__()
        halves = [channels // 2 for channels in in_channels[:-1]]
        odd = [c for c in (*in_channels, *halves) if c % groups]
        if odd:
            raise InputError(
                f"IMAFR normalises in {groups} groups, which do not divide {odd[0]} channels: "
                "choose other groups, or another number of text tokens"
            )
        first = in_channels[0]
        self.spatial = nn.Conv2d(first, 1, 1)
        self.conv = nn.Conv2d(first, first, 3, padding=1)
        self.norm = nn.GroupNorm(groups, first)
        self.halve = nn.ModuleList(_Halving(c, groups) for c in in_channels[:-1])
        self.mix = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(half + channels, channels, 1), nn.GroupNorm(groups, channels), nn.ReLU()
            )
            for half, channels in zip(halves, in_channels[1:], strict=True)
        )
        self.out_channels, self.out_strides = tuple(in_channels), tuple(strides)
        if init_std is not None:
            start_convolutions(self, partial(nn.init.trunc_normal_, std=init_std))

    def forward(self, pyramid: Pyramid) -> Pyramid:
        """Return the refined levels, of the same sizes."""
        finest, *coarser = pyramid.features
        x = torch.relu(self.norm(self.conv(finest * self.spatial(finest).sigmoid())))
        refined = [x]
        for halve, mix, feature in zip(self.halve, self.mix, coarser, strict=True):
            x = mix(torch.cat([halve(x), feature], dim=1))
            refined.append(x)
        return replace(pyramid, features=tuple(refined))


class _Halving(nn.Module):
    """Attention over pixels, then over channels; then halves the channels and the size."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        half = channels // 2
        self.spatial = nn.Conv2d(channels, 1, 1)
        self.channel = nn.Sequential(
            nn.Conv2d(channels, channels // 8, 1), nn.ReLU(), nn.Conv2d(channels // 8, channels, 1)
        )
        self.conv = nn.Conv2d(channels, half, 3, padding=1)
        self.down = nn.Conv2d(half, half, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(groups, half)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b half h2 w2"]:
        x = x * self.spatial(x).sigmoid()
        x = x * self.channel(x.mean(dim=(2, 3), keepdim=True)).sigmoid()
        x = torch.relu(self.norm(self.conv(x)))
        return torch.relu(self.norm(self.down(x)))
