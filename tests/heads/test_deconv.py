import pytest
import torch
from tests.contracts import HeadContract

from diffsight.errors import InputError
from diffsight.heads import DeconvHead
from diffsight.types import Pyramid


@pytest.mark.parametrize(("stride", "doublings"), [(32, 2), (16, 1), (8, 0)])
def test_reaches_the_image_from_any_stride(stride: int, doublings: int) -> None:
    head = DeconvHead(in_channels=[6], strides=[stride], num_outputs=2, widths=(4, 4, 4), width=5)
    assert head.bilinear_doublings == doublings
    raw = head(Pyramid((torch.randn(2, 6, 3, 4),), (stride,), (3 * stride, 4 * stride)))
    assert raw.maps.shape == (2, 2, 3 * stride, 4 * stride)
    assert raw.space == "value"


def test_bounded_by_the_cap() -> None:
    head = DeconvHead(in_channels=[2], strides=[8], num_outputs=1, max_value=80.0).eval()
    with torch.no_grad():
        head.output[-1].bias.fill_(50.0)
        raw = head(Pyramid((torch.randn(1, 2, 2, 2),), (8,), (16, 16)))
    torch.testing.assert_close(raw.maps, torch.full_like(raw.maps, 80.0))


def test_unusable_pyramids() -> None:
    with pytest.raises(InputError, match="put a Merging neck before it"):
        DeconvHead(in_channels=[1, 2], strides=[8, 16], num_outputs=1)
    with pytest.raises(InputError, match="give fewer widths"):
        DeconvHead(in_channels=[1], strides=[4], num_outputs=1)


class TestDeconvHead(HeadContract):
    pyramids = (((24,), (32,)), ((16,), (16,)))

    def build(self, in_channels: tuple[int, ...], strides: tuple[int, ...]) -> DeconvHead:
        return DeconvHead(
            in_channels=in_channels, strides=strides, num_outputs=2, widths=(8, 8, 8), width=12
        )
