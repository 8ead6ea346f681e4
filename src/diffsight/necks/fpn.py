"""Feature pyramid network (Lin et al., CVPR 2017): coarse levels are added to finer ones."""

from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diffsight.necks.base import AbstractNeck
from diffsight.ops.layers import start_convolutions
from diffsight.types import Pyramid


class FPN(AbstractNeck):
    """Projects all levels to one width, adds coarse levels to finer ones, and convolves each sum.

    VPD, segmentation: 320, 790, 1430 and 1280 channels become 256 each.

    Args:
        in_channels: channels of the levels, finest first.
        strides: strides of the levels.
        width: channels of every output level.
    """

    def __init__(
        self, *, in_channels: Sequence[int], strides: Sequence[int], width: int = 256
    ) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in in_channels)
        self.output = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in in_channels)
        self.out_channels = (width,) * len(in_channels)
        self.out_strides = tuple(strides)
        start_convolutions(self, nn.init.xavier_uniform_)

    def forward(self, pyramid: Pyramid) -> Pyramid:
        """Return the same levels with ``width`` channels each."""
        sums: list[Float[Tensor, "b c _ _"]] = []
        for lateral, feature in zip(
            reversed(self.lateral), reversed(pyramid.features), strict=True
        ):
            level = lateral(feature)
            if sums:
                level = level + functional.interpolate(sums[-1], level.shape[-2:], mode="nearest")
            sums.append(level)
        levels = zip(self.output, reversed(sums), strict=True)
        return replace(pyramid, features=tuple(output(level) for output, level in levels))
