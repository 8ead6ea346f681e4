"""Referring segmentation: the mask of the one thing that a sentence means."""

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

TINT = (230, 40, 60)  # RGB of a mask in pictures


class Referring(AbstractTask):
    """Two classes per pixel: something else, and the thing that is meant.

    Args:
        weights: of background and thing in the loss.
        label: key of ``Sample.labels``, 1 where the thing is.
    """

    requires_prompt = True
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
        """Return the cross-entropy, a weighted mean over the pixels with a label.

        VPD and EVP: all pixels have one.
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
        """Return the thing where it is the more probable class."""
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
        """Return 1 where the thing is."""
        output = Classes.expect(output)
        return (output.maps[:, 1] > output.maps[:, 0]).long()

    def measure(self, label: Int[Tensor, "b h w"], target: Target) -> Float64[Tensor, "2"]:
        """Return the pixels of intersection and union."""
        truth, found = target.label == 1, label == 1
        areas = [(part & target.valid).sum() for part in (truth & found, truth | found)]
        return torch.stack(areas).double()

    def score(self, sums: Float64[Tensor, "2"]) -> float:
        """Return the overall IoU in percent."""
        return 100 * float(sums[0] / sums[1].clamp(min=1))

    def constant(self, label: Int[Tensor, "b h w"], valid: Masks) -> Int[Tensor, ""]:
        """Return 1: a mask of everything has a larger IoU than none."""
        return torch.ones((), dtype=torch.long)

    def baselines(self, labels: LabelMaps) -> Mapping[str, Tensor]:
        """Return everything, and the best fixed mask.

        Of the masks that keep the positions where the thing is most often, that is the one with the
        largest overall IoU.
        """
        counts = count_classes(labels, 2)
        things, images = counts[1].double(), counts.sum(dim=0).double()
        often, order = (things / images.clamp(min=1)).flatten().sort(descending=True)
        found = things.flatten()[order].cumsum(dim=0)
        union = things.sum() + images.flatten()[order].cumsum(dim=0) - found
        threshold = often[(found / union.clamp(min=1)).argmax()]
        best = things / images.clamp(min=1) >= threshold
        return {"everything": torch.ones(1, 1, dtype=torch.long), "best place": best.long()}


@dataclass(frozen=True)
class MaskPrediction(Prediction):
    """The thing that a sentence means, in one image.

    Attributes:
        mask: where it is.
        probability: of being it.
    """

    mask: Mask
    probability: Map
    kind = "mask"

    def to_label(self) -> Int[Tensor, "h w"]:
        """Return 1 where the thing is."""
        return self.mask.long()

    def arrays(self) -> dict[str, StoredArray]:
        """Return ``mask`` (255 is the thing) and ``probability``."""
        mask = self.mask.cpu().numpy().astype(np.uint8) * 255
        probability = self.probability.half().cpu().numpy()
        return {"mask": StoredArray(mask), "probability": StoredArray(probability)}

    def metadata(self) -> dict[str, Any]:
        """Return size and area."""
        return {"size": list(self.hw[::-1]), "pixels": int(self.mask.sum())}

    def draw(self, image: Float[Tensor, "3 h w"] | None = None) -> Picture:
        """White on black."""
        return (self.mask.cpu().to(torch.uint8) * 255).expand(3, -1, -1)

    def draw_with(self, other: Any, image: Float[Tensor, "3 h w"]) -> tuple[Picture, ...]:
        """Return truth and prediction over the image, and red where they differ."""
        truth, prediction = self.mask.cpu(), other.mask.cpu()
        pixels = to_pixels(image)
        blank = torch.full_like(pixels, 245)
        parts = ((pixels, truth), (pixels, prediction), (blank, truth ^ prediction))
        return tuple(_over(*part) for part in parts)


def _over(pixels: Picture, mask: Tensor) -> Picture:
    tint = torch.tensor(TINT, dtype=torch.uint8)[:, None, None]
    return torch.where(mask, pixels // 3 + tint // 3 * 2, pixels)
