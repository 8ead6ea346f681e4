"""Semantic FPN (Kirillov et al., CVPR 2019): sums all levels at the size of the finest one."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffsight.heads.base import AbstractHead, require_maps, to_output
from diffsight.ops.layers import conv_block, start_convolutions
from diffsight.outputs import Output, OutputSpec
from diffsight.types import Pyramid


class SemanticFPN(AbstractHead):
    """Enlarges each level to the size of the finest, adds all levels, and predicts from the sum.

    VPD, segmentation: four levels of 256 channels at strides 8 to 64.

    Args:
        in_channels: channels of the levels, finest first.
        strides: strides of the levels, each a power of two times the first.
        output: output that the task needs: values or classes.
        width: channels of the sum of the levels.
        dropout: probability of dropping a whole channel of the sum in training.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        strides: Sequence[int],
        output: OutputSpec,
        width: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        require_maps("SemanticFPN", output)
        self.spec = output
        self.stride = strides[0]
        self.scales = nn.ModuleList()
        for channels, stride in zip(in_channels, strides, strict=True):
            doublings = (stride // self.stride).bit_length() - 1
            layers: list[nn.Module] = []
            for i in range(max(doublings, 1)):
                block = conv_block(channels if i == 0 else width, width)
                start_convolutions(block, partial(nn.init.kaiming_normal_, nonlinearity="relu"))
                layers.append(block)
                if doublings:
                    layers.append(nn.Upsample(scale_factor=2, mode="bilinear"))
            self.scales.append(nn.Sequential(*layers))
        self.dropout = nn.Dropout2d(dropout)
        self.output = nn.Conv2d(width, output.channels, 1)
        start_convolutions(self.output, partial(nn.init.normal_, std=0.01))

    def forward(self, pyramid: Pyramid) -> Output:
        """Return the class logits or values at full resolution (stride 1)."""
        finest = pyramid.features[0].shape[-2:]
        total: Tensor | None = None
        for scale, feature in zip(self.scales, pyramid.features, strict=True):
            level = scale(feature)
            if level.shape[-2:] != finest:  # rounded up, a coarse level doubles to more
                level = level[..., : finest[0], : finest[1]]
            total = level if total is None else total + level
        assert isinstance(total, torch.Tensor)
        logits = self.output(self.dropout(total))
        maps = functional.interpolate(logits, scale_factor=self.stride, mode="bilinear")
        return to_output(self.spec, maps)
