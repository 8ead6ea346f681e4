"""What the methods on a frozen backbone have in common: one pass, probabilities of classes."""

from typing import Self

from torch import Tensor
from torch.nn import functional

from diffsight.backbones import AbstractBackbone, PretrainedPart
from diffsight.methods.base import AbstractMethod
from diffsight.methods.parts import pad
from diffsight.outputs import Classes, Distribution, Output, OutputSpec, expectation
from diffsight.types import Inputs, Maps, Pyramid


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
        return {
            ".".join(["backbone", *filter(None, [name])]): part
            for name, part in self.backbone.named_modules()
            if isinstance(part, PretrainedPart)
        }

    def pyramid(self, inputs: Inputs) -> Pyramid:
        """Return the features of the padded images."""
        image = pad(inputs.image, self.backbone.size_multiple)
        return self.backbone(image, latents=inputs.latents)

    def _at_image_size(self, maps: Tensor, covered: Tensor, inputs: Inputs) -> Maps:
        """Resize maps to the pixels that they cover, and cut the padding off."""
        height, width = inputs.image.shape[-2:]
        size = (covered.shape[-2], covered.shape[-1])
        return functional.interpolate(maps, size, mode="bilinear")[..., :height, :width]

    def _output(self, probability: Maps) -> Output:
        if self.spec.codec is None:
            return Classes(probability, "probabilities")
        centres = self.spec.codec.centres
        return Distribution(probability, expectation(probability, centres[None]), centres)
