"""What the methods on a frozen backbone have in common: one pass, probabilities of classes."""

from functools import cache
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from diffsight.backbones import AbstractBackbone, PretrainedPart
from diffsight.methods.base import AbstractMethod
from diffsight.outputs import Classes, Distribution, Output, OutputSpec, expectation
from diffsight.types import Inputs, Maps, PixelGrid, Pyramid


class AbstractFrozen(AbstractMethod):
    """Probabilities of classes from the pyramid of a frozen backbone.

    Args:
        output: a distribution, or classes.
        backbone: frozen; it stays in evaluation mode.
    """

    output_kinds = ("distribution", "classes")

    def __init__(self, output: OutputSpec, backbone: AbstractBackbone) -> None:
        super().__init__()
        self.spec = output
        self.backbone = backbone.requires_grad_(False)
        self.size_multiple = backbone.size_multiple

    def train(self, mode: bool = True) -> Self:
        """Set the mode of what learns; the frozen backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def frozen(self) -> dict[str, PretrainedPart]:
        """Return the pretrained network inside the backbone, by its path."""
        return pretrained_parts(self.backbone, "backbone")

    def pyramid(self, inputs: Inputs) -> Pyramid:
        """Return the features of the padded images."""
        return self.backbone.of_inputs(inputs)

    def _at_image_size(
        self, maps: Tensor, covered: Tensor, inputs: Inputs, pixels: PixelGrid | None = None
    ) -> Maps:
        """Resize maps to the pixels that they cover, and cut the padding off.

        Args:
            maps: of the padded images.
            covered: an empty map of the size in pixels that they cover.
            inputs: the images.
            pixels: of the images, if not all are wanted; the values are those of the whole map.
        """
        height, width = inputs.image.shape[-2:]
        size = (covered.shape[-2], covered.shape[-1])
        if pixels is not None:
            rows, columns = (
                _interpolation(have, want)[:, :side][:, some].to(maps)
                for have, want, side, some in zip(
                    maps.shape[-2:], size, (height, width), pixels, strict=True
                )
            )
            return torch.einsum("bcij,ih,jw->bchw", maps, rows, columns)
        return functional.interpolate(maps, size, mode="bilinear")[..., :height, :width]

    def _output(self, probability: Maps) -> Output:
        if self.spec.codec is None:
            return Classes(probability, "probabilities")
        centres = self.spec.codec.centres
        return Distribution(probability, expectation(probability, centres[None]), centres)


def pretrained_parts(backbone: AbstractBackbone, path: str) -> dict[str, PretrainedPart]:
    """Return the pretrained networks inside a backbone, by their paths.

    Args:
        backbone: itself one of them, or made of them.
        path: of the backbone.
    """
    return {
        ".".join([path, *filter(None, [name])]): part
        for name, part in backbone.named_modules()
        if isinstance(part, PretrainedPart)
    }


@cache
def _interpolation(have: int, want: int) -> Tensor:
    """Return the weights of ``have`` samples in each of ``want`` that bilinear resizing makes."""
    return functional.interpolate(torch.eye(have)[None], want, mode="linear")[0]
