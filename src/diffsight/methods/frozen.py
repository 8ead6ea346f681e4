"""The base class of methods that predict class probabilities from a frozen backbone."""

from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from diffsight.backbones import AbstractBackbone, PretrainedPart
from diffsight.methods.base import AbstractMethod
from diffsight.ops.resize import interpolation_weights
from diffsight.outputs import Classes, Distribution, Output, OutputSpec, expectation
from diffsight.types import Inputs, Maps, PixelGrid, Pyramid


class AbstractFrozenBackboneMethod(AbstractMethod):
    """Base class of methods that predict class probabilities from a frozen backbone.

    Args:
        output: specification of a distribution, or of classes.
        backbone: backbone; this class freezes it and keeps it in evaluation mode.
    """

    output_kinds = ("distribution", "classes")

    def __init__(self, output: OutputSpec, backbone: AbstractBackbone) -> None:
        super().__init__()
        self.spec = output
        self.backbone = backbone.requires_grad_(False)
        self.size_multiple = backbone.size_multiple

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the trainable parts; the frozen backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def frozen(self) -> dict[str, PretrainedPart]:
        """Return the pretrained networks inside the backbone, by their attribute paths."""
        return pretrained_parts(self.backbone, "backbone")

    def pyramid(self, inputs: Inputs) -> Pyramid:
        """Return the backbone's features of the padded images."""
        return self.backbone.forward_inputs(inputs)

    def _resize_to_image(
        self, maps: Tensor, covered: Tensor, inputs: Inputs, pixels: PixelGrid | None = None
    ) -> Maps:
        """Return maps at the size of the images, without the padding.

        Args:
            maps: maps of the padded images.
            covered: an empty tensor with the height and width of the pixels that the maps cover.
            inputs: the images.
            pixels: pixels to compute; None: all. They get the same values in both cases.
        """
        height, width = inputs.image.shape[-2:]
        size = (covered.shape[-2], covered.shape[-1])
        if pixels is not None:
            rows, columns = (
                interpolation_weights(old, new)[:, :side][:, chosen].to(maps)
                for old, new, side, chosen in zip(
                    maps.shape[-2:], size, (height, width), pixels, strict=True
                )
            )
            return torch.einsum("bcij,ih,jw->bchw", maps, rows, columns)
        return functional.interpolate(maps, size, mode="bilinear")[..., :height, :width]

    def _output(self, probability: Maps) -> Output:
        """Return probabilities as classes, or as a distribution if the classes have values."""
        if self.spec.codec is None:
            return Classes(probability, "probabilities")
        centres = self.spec.codec.centres
        return Distribution(probability, expectation(probability, centres[None]), centres)


def pretrained_parts(backbone: AbstractBackbone, path: str) -> dict[str, PretrainedPart]:
    """Return the pretrained networks inside a backbone, by their attribute paths.

    Args:
        backbone: a pretrained network, or a module that contains some.
        path: attribute path of the backbone.
    """
    return {
        ".".join([path, *filter(None, [name])]): part
        for name, part in backbone.named_modules()
        if isinstance(part, PretrainedPart)
    }
