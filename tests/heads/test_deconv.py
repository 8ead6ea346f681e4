"""DeconvHead: output size, bounds of values, and refused pyramids."""

import pytest
import torch
from tests.contracts import HeadContract

from diffsight.errors import InputError
from diffsight.heads import DeconvHead
from diffsight.outputs import OutputSpec, Values
from diffsight.types import Pyramid

TWO_VALUES = OutputSpec("values", 2)


@pytest.mark.parametrize(("stride", "doublings"), [(32, 2), (16, 1), (8, 0)])
def test_the_output_has_the_size_of_the_image_for_strides_8_to_32(
    stride: int, doublings: int
) -> None:
    head = DeconvHead(
        in_channels=[6], strides=[stride], output=TWO_VALUES, widths=(4, 4, 4), width=5
    )
    assert head.bilinear_doublings == doublings
    output = head(Pyramid((torch.randn(2, 6, 3, 4),), (stride,), (3 * stride, 4 * stride)))
    assert isinstance(output, Values)
    assert output.maps.shape == (2, 2, 3 * stride, 4 * stride)


def test_values_stay_within_the_bounds_of_the_task() -> None:
    spec = OutputSpec("values", 1, bounds=(0.0, 80.0))
    head = DeconvHead(in_channels=[2], strides=[8], output=spec).eval()
    with torch.no_grad():
        head.output[-1].bias.fill_(50.0)
        output = head(Pyramid((torch.randn(1, 2, 2, 2),), (8,), (16, 16)))
    torch.testing.assert_close(output.maps, torch.full_like(output.maps, 80.0))


def test_all_convolutions_start_with_a_standard_deviation_of_0_001_and_no_bias() -> None:
    head = DeconvHead(in_channels=[64], strides=[32], output=OutputSpec("values", 1))
    weights = [p for name, p in head.named_parameters() if name.endswith("weight") and p.ndim == 4]
    assert len(weights) == 6  # three transposed convolutions, and three convolutions
    for weight in weights:
        assert float(weight.detach().std()) == pytest.approx(0.001, rel=0.2)
    biases = [head.conv[0].bias, head.output[0].bias, head.output[2].bias]
    assert all(bool((bias == 0).all()) for bias in biases)


def test_several_levels_and_small_strides_are_refused() -> None:
    with pytest.raises(InputError, match="put a Merging neck before it"):
        DeconvHead(in_channels=[1, 2], strides=[8, 16], output=TWO_VALUES)
    with pytest.raises(InputError, match="give fewer widths"):
        DeconvHead(in_channels=[1], strides=[4], output=TWO_VALUES)


class TestDeconvHead(HeadContract):
    pyramids = (((24,), (32,)), ((16,), (16,)))
    output = TWO_VALUES

    def build(self, in_channels: tuple[int, ...], strides: tuple[int, ...]) -> DeconvHead:
        return DeconvHead(
            in_channels=in_channels, strides=strides, output=self.output, widths=(8, 8, 8), width=12
        )
