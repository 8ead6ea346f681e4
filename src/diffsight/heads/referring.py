"""A decoder from coarse to fine by concatenation (LAVT, Yang et al., CVPR 2022)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diffsight.heads.base import AbstractHead, require_maps, to_output
from diffsight.outputs import Output, OutputSpec
from diffsight.types import Pyramid


class ReferringDecoder(AbstractHead):
    """The coarsest level is brought to the next finer one's size, put before it, and mixed; so on.

    VPD and EVP, referring segmentation: levels at strides 8 to 64; language came in through the
    UNet. All sizes are interpolated with aligned corners, as in the authors' code.

    Args:
        in_channels: of the levels, finest first; two or more.
        strides: their strides.
        output: what to give.
        width: channels of the mixtures; default: half of the coarsest level's.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        strides: Sequence[int],
        output: OutputSpec,
        width: int | None = None,
    ) -> None:
        super().__init__()
        require_maps("ReferringDecoder", output)
        self.spec = output
        width = width or in_channels[-1] // 2
        self.stride = strides[0]
        self.stages = nn.ModuleList()
        previous = in_channels[-1]
        for channels in reversed(in_channels[:-1]):
            self.stages.append(
                nn.Sequential(*_layers(previous + channels, width), *_layers(width, width))
            )
            previous = width
        self.output = nn.Conv2d(width, output.channels, 1)

    def forward(self, pyramid: Pyramid) -> Output:
        """Return the output at stride 1."""
        *finer, x = pyramid.features
        for stage, feature in zip(self.stages, reversed(finer), strict=True):
            height, width = feature.shape[-2:]
            x = stage(torch.cat([_resized(x, height, width), feature], dim=1))
        height, width = (self.stride * side for side in x.shape[-2:])
        return to_output(self.spec, _resized(self.output(x), height, width))


def _resized(x: Float[Tensor, "b c _ _"], height: int, width: int) -> Float[Tensor, "b c h w"]:
    return functional.interpolate(x, (height, width), mode="bilinear", align_corners=True)


def _layers(channels: int, width: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
