"""SemanticFPN: upsampling of the levels, and number of parameters."""

import pytest
import torch
from tests.contracts import HeadContract
from torch import nn

from diffsight.heads import SemanticFPN
from diffsight.outputs import OutputSpec
from diffsight.types import Pyramid


def test_numbers_of_parameters_and_upsamplings_are_those_of_vpd() -> None:
    head = SemanticFPN(
        in_channels=(256,) * 4, strides=(8, 16, 32, 64), output=OutputSpec("classes", 150)
    )
    assert sum(p.numel() for p in head.parameters()) == 4_170_902
    doublings = [sum(isinstance(m, nn.Upsample) for m in scale) for scale in head.scales]
    convolutions = [sum(isinstance(m, nn.Conv2d) for m in scale.modules()) for scale in head.scales]
    assert doublings == [0, 1, 2, 3]
    assert convolutions == [1, 1, 2, 3]


@pytest.mark.parametrize(("height", "width"), [(3, 5), (4, 8)])
def test_coarse_levels_are_cropped_to_the_finest(height: int, width: int) -> None:
    """Levels of 3 x 5, 2 x 3 and 1 x 2 cells at strides 8, 16 and 32 give a map of 3 x 5 cells."""
    head = SemanticFPN(
        in_channels=(4,) * 3, strides=(8, 16, 32), output=OutputSpec("classes", 2), width=6
    ).eval()
    sizes = [(-(-height // s), -(-width // s)) for s in (1, 2, 4)]
    features = tuple(torch.randn(1, 4, h, w) for h, w in sizes)
    output = head(Pyramid(features, (8, 16, 32), (8 * height, 8 * width)))
    assert output.maps.shape == (1, 2, 8 * height, 8 * width)
    assert output.space == "logits"


class TestSemanticFPN(HeadContract):
    pyramids = (((4, 5, 3, 6), (8, 16, 32, 64)), ((7,), (4,)))

    def build(self, in_channels: tuple[int, ...], strides: tuple[int, ...]) -> SemanticFPN:
        return SemanticFPN(in_channels=in_channels, strides=strides, output=self.output, width=8)
