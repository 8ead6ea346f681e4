"""ReferringDecoder: order and size of the levels, and number of parameters."""

import torch
from tests.contracts import HeadContract
from torch.nn import functional

from diffsight.heads import ReferringDecoder
from diffsight.outputs import OutputSpec
from diffsight.types import Pyramid


def test_the_number_of_parameters_is_that_of_vpd() -> None:
    for tokens, expected in ((40, 39_176_962), (77, 39_603_202)):
        with torch.device("meta"):
            head = ReferringDecoder(
                in_channels=(320, 640 + tokens, 1280 + tokens, 1280),
                strides=(8, 16, 32, 64),
                output=OutputSpec("classes", 2),
            )
        assert sum(p.numel() for p in head.parameters()) == expected


def test_the_coarser_level_is_enlarged_and_concatenated_first() -> None:
    head = ReferringDecoder(
        in_channels=(3, 4), strides=(4, 8), output=OutputSpec("classes", 2), width=5
    ).eval()
    fine, coarse = torch.randn(1, 3, 6, 8), torch.randn(1, 4, 3, 4)
    with torch.no_grad():
        maps = head(Pyramid((fine, coarse), (4, 8), (24, 32))).maps
        up = functional.interpolate(coarse, (6, 8), mode="bilinear", align_corners=True)
        logits = head.output(head.stages[0](torch.cat([up, fine], dim=1)))
    assert torch.equal(maps[..., 0, 0], logits[..., 0, 0])
    assert torch.equal(maps[..., -1, -1], logits[..., -1, -1])


class TestReferringDecoder(HeadContract):
    pyramids = (((4, 5, 3, 6), (8, 16, 32, 64)), ((3, 8), (4, 8)))

    def build(self, in_channels: tuple[int, ...], strides: tuple[int, ...]) -> ReferringDecoder:
        return ReferringDecoder(
            in_channels=in_channels, strides=strides, output=self.output, width=8
        )
