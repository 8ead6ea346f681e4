"""Heatmaps of joints from one level (Simple Baselines, Xiao et al., ECCV 2018)."""

from collections.abc import Sequence

from torch import nn

from diffsight.errors import InputError
from diffsight.heads.base import AbstractHead, resize_aligned
from diffsight.ops.layers import start_convolutions
from diffsight.outputs import Heatmaps, Output, OutputSpec
from diffsight.types import Pyramid


class HeatmapHead(AbstractHead):
    """Enlarges the finest level by transposed convolutions, and predicts heatmaps from it.

    Args:
        in_channels: channels of the levels, finest first; only the finest level is read.
        strides: strides of the levels.
        output: output that the task needs; must be heatmaps.
        width: channels of the transposed convolutions.

    Raises:
        InputError: if the output is not heatmaps, or the stride of the finest level is not that of
            the heatmaps times a power of two.
    """

    resizes_output = True

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        strides: Sequence[int],
        output: OutputSpec,
        width: int = 256,
    ) -> None:
        super().__init__()
        if output.kind != "heatmaps":
            raise InputError(f"HeatmapHead gives heatmaps, not {output.describe()}: use DeconvHead")
        doublings = (strides[0] // output.stride).bit_length() - 1
        if output.stride << max(doublings, 0) != strides[0]:
            raise InputError(
                f"HeatmapHead reads features of stride {strides[0]} for heatmaps of stride "
                f"{output.stride}: choose features whose stride is 1, 2, 4 ... times that"
            )
        self.stride = output.stride
        layers, channels = [], in_channels[0]
        for _ in range(doublings):
            deconv = nn.ConvTranspose2d(channels, width, 4, stride=2, padding=1, bias=False)
            layers += [deconv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
        self.layers = nn.Sequential(*layers)
        self.output = nn.Conv2d(channels, output.channels, 1)
        for part in (self.layers, self.output):
            start_convolutions(part, lambda weight: nn.init.normal_(weight, std=0.001))

    def forward(self, pyramid: Pyramid) -> Output:
        """Return the heatmaps, which cover the padded image at their stride."""
        maps = self.output(self.layers(pyramid.features[0]))
        covered = pyramid.covered_hw(0)
        hw = tuple(-(-side // self.stride) for side in covered)
        if tuple(maps.shape[-2:]) != hw:
            maps = resize_aligned(maps, hw)
        return Heatmaps(maps, self.stride)
