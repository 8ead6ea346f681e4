"""Referring segmentation: the mask of the object that a sentence refers to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn import functional

from diffsight.outputs import Classes, Output, OutputSpec, SoftLabels
from diffsight.tasks.base import AbstractTask, LabelMaps, count_classes, distribution_loss
from diffsight.tasks.prediction import Prediction, StoredArray, to_pixels
from diffsight.types import Map, Mask, Masks, Picture, Target

TINT = (230, 40, 60)  # RGB colour of a mask in pictures


class Referring(AbstractTask):
    """Two classes per pixel: the background, and the object that the sentence refers to.

    Args:
        weights: weights of background and object in the loss.
        label: key of ``Sample.labels``; the label is 1 on the object and 0 elsewhere.
    """

    requires_prompt = True
    is_mirrorable = False  # a sentence with "left" or "right" means another object there
    metric_name = "oIoU, %"
    higher_is_better = True

    def __init__(
        self, *, weights: tuple[float, float] = (0.9, 1.1), label: str = "referent"
    ) -> None:
        super().__init__()
        self.weights = weights
        self.label = label

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """Logits or probabilities of two classes."""
        return (OutputSpec("classes", 2),)

    def loss(
        self, output: Output, target: Target, soft_labels: SoftLabels | None = None
    ) -> dict[str, Tensor]:
        """Return the cross-entropy, a weighted mean over the valid pixels.

        In the data of VPD and EVP all pixels are valid.
        """
        output = Classes.expect(output)
        ids = torch.where(target.valid, target.label, 0).long()
        if output.space == "probabilities":
            loss = distribution_loss(output.maps, SoftLabels.hard(ids), target.valid)
            return {"loss": loss, "class": loss.detach()}
        weight = torch.tensor(self.weights).to(output.maps)
        nll = functional.cross_entropy(
            output.maps.float(), ids, weight=weight.float(), reduction="none"
        )
        counts = weight[ids] * target.valid
        loss = (nll * target.valid).sum() / counts.sum().clamp(min=1e-6)
        return {"loss": loss, "cross_entropy": loss.detach()}

    def decode(self, output: Output) -> list["MaskPrediction"]:
        """Return one mask per image: the pixels that are more probably object than background."""
        output = Classes.expect(output)
        maps = output.maps.float()
        masks = maps[:, 1] > maps[:, 0]
        pairs = zip(masks, output.probabilities[:, 1], strict=True)
        return [MaskPrediction(mask, p) for mask, p in pairs]

    def truth(self, target: Target) -> list["MaskPrediction"]:
        """Return the labels as perfect predictions."""
        masks = (target.label == 1) & target.valid
        return [MaskPrediction(mask, mask.float()) for mask in masks]

    def to_label(self, output: Output) -> Int[Tensor, "b h w"]:
        """Return 1 where the object is more probable than the background, else 0."""
        output = Classes.expect(output)
        return (output.maps[:, 1] > output.maps[:, 0]).long()

    def measure(self, label: Int[Tensor, "b h w"], target: Target) -> Float64[Tensor, "2"]:
        """Return the numbers of valid pixels in intersection and union of truth and prediction."""
        truth, predicted = target.label == 1, label == 1
        masks = (truth & predicted, truth | predicted)
        return torch.stack([(mask & target.valid).sum() for mask in masks]).double()

    def score(self, sums: Float64[Tensor, "2"]) -> float:
        """Return the overall IoU (intersection and union summed over all images) in percent."""
        return 100 * float(sums[0] / sums[1].clamp(min=1))

    def constant(self, label: Int[Tensor, "b h w"], valid: Masks) -> Int[Tensor, ""]:
        """Return 1, because the mask of the whole image has a larger IoU than an empty mask."""
        return torch.ones((), dtype=torch.long)

    def baselines(self, labels: LabelMaps) -> Mapping[str, Tensor]:
        """Return the mask of the whole image (``everything``) and the best fixed mask.

        The fixed mask (``best place``) has the pixel positions at which the object is most
        frequent. Their number is chosen so that the overall IoU is largest.
        """
        counts = count_classes(labels, 2)
        objects, images = counts[1].double(), counts.sum(dim=0).double()
        frequency, order = (objects / images.clamp(min=1)).flatten().sort(descending=True)
        intersection = objects.flatten()[order].cumsum(dim=0)
        union = objects.sum() + images.flatten()[order].cumsum(dim=0) - intersection
        threshold = frequency[(intersection / union.clamp(min=1)).argmax()]
        best = objects / images.clamp(min=1) >= threshold
        return {"everything": torch.ones(1, 1, dtype=torch.long), "best place": best.long()}


@dataclass(frozen=True)
class MaskPrediction(Prediction):
    """The mask of the object that a sentence refers to, in one image.

    Attributes:
        mask: True on the object.
        probability: probability of the object at every pixel.
    """

    mask: Mask
    probability: Map
    kind = "mask"

    def to_label(self) -> Int[Tensor, "h w"]:
        """Return 1 on the object, 0 elsewhere."""
        return self.mask.long()

    def arrays(self) -> dict[str, StoredArray]:
        """Return ``mask`` (255 on the object, else 0) and ``probability``."""
        mask = self.mask.cpu().numpy().astype(np.uint8) * 255
        probability = self.probability.half().cpu().numpy()
        return {"mask": StoredArray(mask), "probability": StoredArray(probability)}

    def metadata(self) -> dict[str, Any]:
        """Return the size of the image, and the number of pixels of the object."""
        return {"size": list(self.hw[::-1]), "pixels": int(self.mask.sum())}

    def draw(self, image: Float[Tensor, "3 h w"] | None = None) -> Picture:
        """Return the mask in white on black."""
        return (self.mask.cpu().to(torch.uint8) * 255).expand(3, -1, -1)

    def draw_with(self, other: Any, image: Float[Tensor, "3 h w"]) -> tuple[Picture, ...]:
        """Return pictures of truth and prediction over the image, and their difference in red."""
        truth, prediction = self.mask.cpu(), other.mask.cpu()
        pixels = to_pixels(image)
        blank = torch.full_like(pixels, 245)
        parts = ((pixels, truth), (pixels, prediction), (blank, truth ^ prediction))
        return tuple(_over(*part) for part in parts)


def _over(pixels: Picture, mask: Tensor) -> Picture:
    """Return a picture with the pixels of a mask tinted."""
    tint = torch.tensor(TINT, dtype=torch.uint8)[:, None, None]
    return torch.where(mask, pixels // 3 + tint // 3 * 2, pixels)
