"""A decoder that concatenates levels from coarse to fine (LAVT, Yang et al., CVPR 2022)."""

from collections.abc import Sequence

import torch
from torch import nn

from diffsight.heads.base import AbstractHead, require_maps, resize_aligned, to_output
from diffsight.ops.layers import conv_block
from diffsight.outputs import Output, OutputSpec
from diffsight.types import Pyramid


class ReferringDecoder(AbstractHead):
    """Enlarges the coarsest level step by step, and mixes in the next finer level at each step.

    VPD and EVP, referring segmentation: levels at strides 8 to 64. The decoder does not read the
    text, which conditions the UNet. Features are resized with aligned corners, as in the authors'
    code.

    Args:
        in_channels: channels of two or more levels, finest first.
        strides: strides of the levels.
        output: output that the task needs: values or classes.
        width: channels of the mixed features; None: half of the channels of the coarsest level.
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
            blocks = (*conv_block(previous + channels, width), *conv_block(width, width))
            self.stages.append(nn.Sequential(*blocks))
            previous = width
        self.output = nn.Conv2d(width, output.channels, 1)

    def forward(self, pyramid: Pyramid) -> Output:
        """Return the mask logits at full resolution (stride 1)."""
        *finer, x = pyramid.features
        for stage, feature in zip(self.stages, reversed(finer), strict=True):
            x = stage(torch.cat([resize_aligned(x, feature.shape[-2:]), feature], dim=1))
        hw = [self.stride * side for side in x.shape[-2:]]
        return to_output(self.spec, resize_aligned(self.output(x), hw))
