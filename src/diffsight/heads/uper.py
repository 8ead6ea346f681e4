"""UPerNet (Xiao et al., ECCV 2018): a feature pyramid with pooling of its coarsest level."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diffsight.heads.base import AbstractHead, require_maps, to_output
from diffsight.ops.layers import conv_block, fcn_head, start_convolutions
from diffsight.ops.pooling import mean_of_cells
from diffsight.outputs import Classes, Output, OutputSpec
from diffsight.types import Pyramid

POOLED = (1, 2, 3, 6)  # cells per side of the pooling pyramid


class UPerHead(AbstractHead):
    """Pools the coarsest level, adds levels from coarse to fine, and joins them to predict.

    Meta Prompts, segmentation: four levels of 150 channels at strides 4 to 32.

    Args:
        in_channels: channels of the levels, finest first.
        strides: strides of the levels.
        output: output that the task needs: values or classes.
        width: channels of every convolution.
        dropout: probability of dropping a whole channel before the last layers in training (0 for
            ADE20K, 0.1 for Cityscapes).
        auxiliary_level: level that an auxiliary head of two convolutions reads, whose output is
            used only in the loss of classes; None: no auxiliary head.
    """

    resizes_output = True

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        strides: Sequence[int],
        output: OutputSpec,
        width: int = 512,
        dropout: float = 0.0,
        auxiliary_level: int | None = 2,
    ) -> None:
        super().__init__()
        require_maps("UPerHead", output)
        self.spec = output
        *finer, coarsest = in_channels
        self.pooled = nn.ModuleList(conv_block(coarsest, width, 1) for _ in POOLED)
        self.context = conv_block(coarsest + len(POOLED) * width, width)
        self.lateral = nn.ModuleList(conv_block(channels, width, 1) for channels in finer)
        self.smooth = nn.ModuleList(conv_block(width, width) for _ in finer)
        self.join = conv_block(len(in_channels) * width, width)
        self.auxiliary_level = auxiliary_level if output.kind == "classes" else None
        self.auxiliary: nn.Sequential | None = None
        if self.auxiliary_level is not None:
            channels = in_channels[self.auxiliary_level]
            self.auxiliary = fcn_head(channels, output.channels, width, dropout)
        start_convolutions(self, partial(nn.init.kaiming_normal_, nonlinearity="relu"))
        self.dropout = nn.Dropout2d(dropout)
        self.output = nn.Conv2d(width, output.channels, 1)
        last_layers: list[nn.Module] = [self.output]
        if self.auxiliary is not None:
            last_layers.append(self.auxiliary[-1])
        for layer in last_layers:
            start_convolutions(layer, partial(nn.init.normal_, std=0.01))

    def forward(self, pyramid: Pyramid) -> Output:
        """Return the class logits or values at full resolution (stride 1)."""
        size = pyramid.covered_hw(0)
        output = to_output(self.spec, _resized(self.logits(pyramid.features), size))
        if self.auxiliary is None or not self.training:
            return output
        assert self.auxiliary_level is not None
        second = self.auxiliary(pyramid.features[self.auxiliary_level])
        return replace(Classes.expect(output), auxiliary=_resized(second, size))

    def logits(self, features: Sequence[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b k h w"]:
        """Return the logits at the size of the finest level."""
        *finer, coarsest = features
        size = coarsest.shape[-2:]
        pooled = [
            _resized(block(mean_of_cells(coarsest, cells)), size)
            for block, cells in zip(self.pooled, POOLED, strict=True)
        ]
        levels = [block(x) for block, x in zip(self.lateral, finer, strict=True)]
        levels.append(self.context(torch.cat([coarsest, *pooled], dim=1)))
        for fine in range(len(levels) - 2, -1, -1):
            above = _resized(levels[fine + 1], levels[fine].shape[-2:])
            levels[fine] = levels[fine] + above
        smooth = [block(x) for block, x in zip(self.smooth, levels, strict=False)]
        smooth.append(levels[-1])
        joined = torch.cat([_resized(x, smooth[0].shape[-2:]) for x in smooth], dim=1)
        return self.output(self.dropout(self.join(joined)))


def _resized(x: Tensor, hw: Sequence[int]) -> Tensor:
    return functional.interpolate(x, tuple(hw), mode="bilinear", align_corners=False)
