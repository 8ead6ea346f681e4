"""FPN: sums of levels, and number of parameters."""

import torch
from tests.contracts import NeckContract
from tests.support import randomise_weights
from torch.nn import functional

from diffsight.necks import FPN
from diffsight.types import Pyramid


def test_every_level_is_the_sum_of_itself_and_all_coarser_levels() -> None:
    neck = randomise_weights(FPN(in_channels=(3, 4, 5), strides=(8, 16, 32), width=6))
    features = (torch.randn(2, 3, 12, 20), torch.randn(2, 4, 6, 10), torch.randn(2, 5, 3, 5))
    with torch.no_grad():
        pyramid = neck(Pyramid(features, (8, 16, 32), (96, 160)))
        coarse = neck.lateral[2](features[2])
        middle = neck.lateral[1](features[1]) + coarse.repeat_interleave(2, 2).repeat_interleave(
            2, 3
        )
        fine = neck.lateral[0](features[0]) + functional.interpolate(middle, scale_factor=2.0)
    assert neck.out_channels == (6, 6, 6)
    assert pyramid.strides == neck.out_strides == (8, 16, 32)
    for level, conv, total in zip(
        pyramid.features, neck.output, (fine, middle, coarse), strict=True
    ):
        torch.testing.assert_close(level, conv(total))


def test_the_number_of_parameters_is_that_of_vpd() -> None:
    neck = FPN(in_channels=(320, 790, 1430, 1280), strides=(8, 16, 32, 64))
    assert sum(p.numel() for p in neck.parameters()) == 3_339_264


class TestFPN(NeckContract):
    pyramids = (((3, 5, 4, 6), (8, 16, 32, 64)), ((4, 4), (4, 8)))

    def build(self, in_channels: tuple[int, ...], strides: tuple[int, ...]) -> FPN:
        return FPN(in_channels=in_channels, strides=strides, width=8)
