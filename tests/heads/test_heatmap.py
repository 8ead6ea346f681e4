"""HeatmapHead: strides and sizes of heatmaps."""

import pytest
import torch
from tests.contracts import HeadContract

from diffsight.errors import InputError
from diffsight.heads import HeatmapHead
from diffsight.outputs import Heatmaps, OutputSpec
from diffsight.types import Pyramid

JOINTS = OutputSpec("heatmaps", 5, stride=4)


class TestHeatmapHead(HeadContract):
    pyramids = (((24,), (8,)), ((16, 8), (4, 8)), ((8,), (32,)))
    output = JOINTS

    def build(self, in_channels: tuple[int, ...], strides: tuple[int, ...]) -> HeatmapHead:
        return HeatmapHead(in_channels=in_channels, strides=strides, output=self.output, width=6)


def test_other_strides_and_outputs_are_refused() -> None:
    for strides in ([2], [12]):
        with pytest.raises(InputError, match=r"stride \d+ for heatmaps of stride 4"):
            HeatmapHead(in_channels=[4], strides=strides, output=JOINTS)
    with pytest.raises(InputError, match="gives heatmaps, not 2 maps of values: use DeconvHead"):
        HeatmapHead(in_channels=[4], strides=[8], output=OutputSpec("values", 2))


def test_heatmaps_are_resized_to_the_grid_of_the_image() -> None:
    head = HeatmapHead(in_channels=[4], strides=[8], output=JOINTS, width=6)
    pyramid = Pyramid((torch.randn(1, 4, 9, 9),), (8,), (64, 64), extent_hw=(64, 64))
    output = head(pyramid)
    assert isinstance(output, Heatmaps)
    assert output.maps.shape == (1, 5, 16, 16)
