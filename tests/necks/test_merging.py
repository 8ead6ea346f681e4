"""Merging: one map at the stride of the third level."""

import pytest
import torch
from tests.contracts import NeckContract

from diffsight.errors import InputError
from diffsight.necks import Merging
from diffsight.types import Pyramid


def test_the_output_is_one_level_at_the_stride_of_the_third() -> None:
    neck = Merging(in_channels=(17, 8, 6, 6), strides=(8, 16, 32, 64), width=32, groups=16)
    features = tuple(torch.randn(2, c, 16 // 2**i, 8 // 2**i) for i, c in enumerate((17, 8, 6, 6)))
    merged = neck(Pyramid(features, (8, 16, 32, 64), (100, 60)))
    assert neck.out_channels == (32,)
    assert merged.strides == neck.out_strides == (32,)
    assert merged.features[0].shape == (2, 32, 4, 2)
    assert merged.valid_hw == (100, 60)


def test_another_number_of_levels_is_refused() -> None:
    with pytest.raises(InputError, match="4 levels, not 3"):
        Merging(in_channels=(1, 2, 3), strides=(8, 16, 32))


class TestMerging(NeckContract):
    pyramids = (((16, 33, 48, 48), (8, 16, 32, 64)),)

    def build(self, in_channels: tuple[int, ...], strides: tuple[int, ...]) -> Merging:
        return Merging(in_channels=in_channels, strides=strides, width=48, groups=8)
