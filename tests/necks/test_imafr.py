"""IMAFR: refinement of the levels, and number of parameters."""

import pytest
import torch
from tests.contracts import NeckContract
from tests.support import randomise_weights

from diffsight.errors import InputError
from diffsight.necks import IMAFR
from diffsight.types import Pyramid

STRIDES = (8, 16, 32, 64)


def test_the_number_of_parameters_is_that_of_evp() -> None:
    with torch.device("meta"):
        neck = IMAFR(in_channels=(320, 680, 1320, 1280), strides=STRIDES)
    assert sum(p.numel() for p in neck.parameters()) == 22_338_294
    with pytest.raises(InputError, match="20 groups, which do not divide 717 channels"):
        IMAFR(in_channels=(320, 717, 1357, 1280), strides=STRIDES)


def test_output_levels_equal_a_reference_computation() -> None:
    neck = randomise_weights(IMAFR(in_channels=(8, 8), strides=(8, 16), groups=2))
    fine, coarse = torch.randn(2, 8, 6, 4), torch.randn(2, 8, 3, 2)
    with torch.no_grad():
        levels = neck(Pyramid((fine, coarse), (8, 16), (48, 32))).features
        x = (neck.norm(neck.conv(fine * neck.spatial(fine).sigmoid()))).relu()
        torch.testing.assert_close(levels[0], x)
        half = neck.halve[0]
        y = x * half.spatial(x).sigmoid()
        y = y * half.channel(y.mean(dim=(2, 3))[..., None, None]).sigmoid()
        y = half.norm(half.down(half.norm(half.conv(y)).relu())).relu()
        torch.testing.assert_close(levels[1], neck.mix[0](torch.cat([y, coarse], dim=1)))


class TestIMAFR(NeckContract):
    pyramids = (((32, 48, 64, 32), STRIDES),)

    def build(self, in_channels: tuple[int, ...], strides: tuple[int, ...]) -> IMAFR:
        torch.manual_seed(0)  # all of the few hidden units of a channel attention may be dead
        return IMAFR(in_channels=in_channels, strides=strides, groups=4)
