"""A small U-Net on pixels, without pretrained parts: the student of ``diffsight distil``.

It has plain convolutions, batch normalisation and bilinear resizing only, so that it runs fast on
a CPU, on images of any size, and can be exported.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsight.backbones import BackboneSource
from diffsight.errors import InputError
from diffsight.heads.base import to_output
from diffsight.methods.base import AbstractMethod, FitSettings, MethodBuilder, make_builder
from diffsight.methods.parts import pad
from diffsight.ops.layers import conv_block
from diffsight.ops.precision import without_autocast
from diffsight.ops.resize import interpolation_weights, resize_maps
from diffsight.outputs import Distribution, Output, OutputSpec, expectation
from diffsight.types import Draws, Encoded, Images, Inputs, Maps, Target


class SmallUNet(AbstractMethod):
    """A U-Net (Ronneberger et al., 2015) that halves the image before its first level.

    Every level halves the resolution with a convolution of stride 2. On the way up, a level is
    resized to the size of the next finer one and concatenated with it. The maps of the finest
    level, at half the size of the image, are resized to the image.

    Args:
        output: specification of a distribution, of values, or of classes.
        widths: channels of the levels, from stride 2 on, each twice the stride of the one before.

    Raises:
        InputError: for fewer than two levels, or a level without channels.
    """

    output_kinds = ("distribution", "values", "classes")

    def __init__(
        self, *, output: OutputSpec, widths: Sequence[int] = (16, 32, 64, 96, 128)
    ) -> None:
        super().__init__()
        if len(widths) < 2 or min(widths) < 1:
            raise InputError(
                f"widths {list(widths)}: give the channels of two or more levels, each 1 or more"
            )
        self.spec = output
        self.size_multiple = 2 ** len(widths)
        inputs = (3, *widths[:-1])
        self.down = nn.ModuleList(
            nn.Sequential(conv_block(before, width, stride=2), conv_block(width, width))
            for before, width in zip(inputs, widths, strict=True)
        )
        self.up = nn.ModuleList(
            conv_block(coarse + fine, fine) for fine, coarse in itertools.pairwise(widths)
        )
        self.out = nn.Conv2d(widths[0], output.channels, 1)

    def forward(
        self,
        inputs: Inputs,
        encoded: Encoded | None = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Output:
        """Return the output at the size of the image.

        Args:
            inputs: images.
            encoded: not used.
            target: not used.
            draws: not used.
        """
        height, width = inputs.image.shape[-2:]
        maps = self._half_size_maps(inputs.image)
        padded = (2 * maps.shape[-2], 2 * maps.shape[-1])
        with without_autocast(maps):
            return self._output(resize_maps(maps, padded)[..., :height, :width])

    def forward_at(
        self, inputs: Inputs, first: Sequence[tuple[int, int]], step: int, count: tuple[int, int]
    ) -> Output:
        """Return the output at some pixels only, which takes less time in training.

        Args:
            inputs: images.
            first: first row and column of each image.
            step: step between rows, and between columns.
            count: number of rows and of columns, so that all of them are inside the image.
        """
        half = self._half_size_maps(inputs.image)
        chosen = []
        with without_autocast(half):
            for maps, starts in zip(half.unbind(), first, strict=True):
                sides = zip(maps.shape[-2:], starts, count, strict=True)
                rows, columns = (
                    interpolation_weights(side, 2 * side)[:, start::step][:, :length].to(maps)
                    for side, start, length in sides
                )
                chosen.append(rows.T @ maps @ columns)
            return self._output(torch.stack(chosen))

    def _half_size_maps(self, image: Images) -> Float[Tensor, "b k _ _"]:
        """Return the maps of the output layer at half the size of the padded images."""
        x, levels = 2 * pad(image, self.size_multiple) - 1, []
        for block in self.down:
            x = block(x)
            levels.append(x)
        for block, fine in zip(reversed(self.up), reversed(levels[:-1]), strict=True):
            coarse = resize_maps(x, (fine.shape[-2], fine.shape[-1]))
            x = block(torch.cat([fine, coarse.to(fine.dtype)], dim=1))
        with without_autocast(x):
            return self.out(x.to(self.out.weight.dtype))

    def _output(self, maps: Maps) -> Output:
        codec = self.spec.codec
        if self.spec.kind != "distribution" or codec is None:
            return to_output(self.spec, maps)
        probability, centres = maps.softmax(dim=1), codec.centres
        return Distribution(probability, expectation(probability, centres[None]), centres)

    @classmethod
    def supports(cls, source: BackboneSource) -> bool:
        """Return whether the source is one vision backbone, because only its size is used."""
        return not (source.is_diffusion or source.parts)

    @classmethod
    def from_backbone(cls, source: BackboneSource, **options: Any) -> MethodBuilder:
        """Return a builder of the network, which has no backbone.

        Args:
            source: not used.
            options: arguments of the constructor.
        """
        return make_builder(cls, lambda output: cls(output=output, **options))

    @classmethod
    def few_shot_defaults(cls) -> FitSettings:
        """Return settings with one learning rate and batches of 8."""
        return FitSettings({"": 2e-3}, batch_size=8, max_steps=2000, weight_decay=0.01)
