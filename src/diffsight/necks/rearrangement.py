"""Feature rearrangement (Meta Prompts, section 3.3): products of features and prompts."""

import abc
from collections.abc import Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diffsight.config import Configurable
from diffsight.ops.layers import start_convolutions
from diffsight.types import Pyramid

GROUPS = 16
Prompts = Float[Tensor, "b n d"]


class AbstractRearrangement(nn.Module, Configurable, abc.ABC):
    """Base class of modules that multiply features with prompts, which gives one map per prompt.

    Attributes:
        out_channels: channels of the output levels, finest first: the number of prompts.
        out_strides: strides of the output levels, in image pixels.
        multiplies: whether the output is these products; False: the output is the features
            themselves, for a comparison.
    """

    out_channels: tuple[int, ...]
    out_strides: tuple[int, ...]
    multiplies: bool = True

    @abc.abstractmethod
    def forward(self, pyramid: Pyramid, prompts: Prompts) -> Pyramid:
        """Return a pyramid of the products.

        Args:
            pyramid: features of the backbone.
            prompts: embeddings of the prompts.
        """


@runtime_checkable
class RearrangementBuilder(Protocol):
    """A function that builds a rearrangement; called with keyword arguments only."""

    def __call__(
        self, *, in_channels: Sequence[int], strides: Sequence[int], prompts: int, dim: int
    ) -> AbstractRearrangement:
        """Return a module for such a pyramid and ``prompts`` prompts of width ``dim``."""
        ...


class PerLevel(AbstractRearrangement):
    """Doubles every level, projects it to the width of a prompt, and multiplies it with prompts.

    Meta Prompts, segmentation: strides 8 to 64 become 4 to 32.

    Args:
        in_channels: channels of the levels, finest first.
        strides: strides of the levels.
        prompts: number of prompts.
        dim: width of a prompt.
    """

    def __init__(
        self, *, in_channels: Sequence[int], strides: Sequence[int], prompts: int, dim: int
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_normalised(channels, dim) for channels in in_channels)
        self.out_channels = (prompts,) * len(in_channels)
        self.out_strides = tuple(max(1, stride // 2) for stride in strides)

    def forward(self, pyramid: Pyramid, prompts: Prompts) -> Pyramid:
        """Return one map per prompt at every level."""
        features = tuple(
            _product(level(functional.interpolate(x, scale_factor=2.0, mode="bilinear")), prompts)
            for level, x in zip(self.levels, pyramid.features, strict=True)
        )
        extent = pyramid.covered_hw(0)
        return Pyramid(features, self.out_strides, pyramid.valid_hw, extent)


class Fused(AbstractRearrangement):
    """Enlarges all levels to the size of the finest, joins them, and multiplies them with prompts.

    Meta Prompts, depth. Differs from the paper, as the released code does: in the paper's figure
    every level is multiplied with the prompts.

    Args:
        in_channels: channels of the levels, finest first.
        strides: strides of the levels, each twice the stride of the one before.
        prompts: number of prompts.
        dim: width of a prompt.
        width: channels of the transposed convolutions that enlarge the levels.
        multiplies: False returns the joined features, ``dim`` channels, instead of the products (a
            row of table 5).
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        strides: Sequence[int],
        prompts: int,
        dim: int,
        width: int = 32,
        multiplies: bool = True,
    ) -> None:
        super().__init__()
        finest, *coarser = in_channels
        self.levels = nn.ModuleList([_normalised(finest, finest)])
        for doublings, channels in enumerate(coarser, start=1):
            self.levels.append(_upwards(channels, width, doublings))
        self.mix = _normalised(sum(in_channels), dim)
        start_convolutions(self, partial(nn.init.trunc_normal_, std=0.02))
        self.multiplies = multiplies
        self.out_channels, self.out_strides = (prompts if multiplies else dim,), (strides[0],)

    def forward(self, pyramid: Pyramid, prompts: Prompts) -> Pyramid:
        """Return one map per prompt at the stride of the finest level."""
        finest, *coarser = (
            level(x) for level, x in zip(self.levels, pyramid.features, strict=True)
        )
        hw = finest.shape[-2:]  # doubled levels of a latent with odd sides are larger
        joined = torch.cat([finest, *(x[..., : hw[0], : hw[1]] for x in coarser)], dim=1)
        mixed = self.mix(joined)
        features = (_product(mixed, prompts) if self.multiplies else mixed,)
        return Pyramid(features, self.out_strides, pyramid.valid_hw, pyramid.covered_hw(0))


def _product(features: Float[Tensor, "b d h w"], prompts: Prompts) -> Float[Tensor, "b n h w"]:
    return torch.einsum("bdhw,bnd->bnhw", features, prompts.to(features.dtype))


def _normalised(channels: int, width: int) -> nn.Sequential:
    groups = GROUPS if width % GROUPS == 0 else 1  # for small models
    conv = nn.Conv2d(channels, width, 3, padding=1)
    return nn.Sequential(conv, nn.GroupNorm(groups, width), nn.ReLU())


def _upwards(channels: int, width: int, doublings: int) -> nn.Sequential:
    """Return ``doublings`` transposed convolutions, and a convolution back to ``channels``."""
    layers: list[nn.Module] = []
    for i in range(doublings):
        inputs = channels if i == 0 else width
        deconv = nn.ConvTranspose2d(inputs, width, 4, stride=2, padding=1, bias=False)
        layers += [deconv, nn.BatchNorm2d(width), nn.ReLU()]
    conv = nn.Conv2d(width, channels, 3, padding=1)
    return nn.Sequential(*layers, conv, nn.BatchNorm2d(channels), nn.ReLU())
