"""NormalisedFPN: one map at the finest stride, and number of parameters."""

import torch
from tests.contracts import NeckContract
from tests.support import noise

from diffsight.necks import NormalisedFPN
from diffsight.types import Pyramid


class TestNormalisedFPN(NeckContract):
    pyramids = (((3, 5, 6, 4), (4, 8, 16, 32)), ((6, 4), (8, 16)))

    def build(self, in_channels: tuple[int, ...], strides: tuple[int, ...]) -> NormalisedFPN:
        return NormalisedFPN(in_channels=in_channels, strides=strides, width=8)


def test_the_number_of_parameters_is_that_of_ddp() -> None:
    for channels, expected in (
        ((96, 192, 384, 768), 2_994_688),
        ((128, 256, 512, 1024), 3_117_568),
        ((192, 384, 768, 1536), 3_363_328),
    ):
        with torch.device("meta"):
            neck = NormalisedFPN(in_channels=channels, strides=(4, 8, 16, 32))
        assert sum(p.numel() for p in neck.parameters()) == expected


def test_levels_of_odd_sizes_are_resized_to_the_finest() -> None:
    neck = NormalisedFPN(in_channels=(3, 5), strides=(4, 8), width=8)
    pyramid = Pyramid((noise(1, 3, 7, 9), noise(1, 5, 4, 5)), (4, 8), (27, 35))
    (joined,) = neck(pyramid).features
    assert joined.shape == (1, 8, 7, 9)
