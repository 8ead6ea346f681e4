"""Referring segmentation: the one thing that a sentence means."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from diffsight.tasks.base import AbstractTask
from diffsight.types import MaskPrediction, RawOutput, Target

TINT = (230, 40, 60)  # RGB of a mask in pictures


class Referring(AbstractTask):
    """Two logits per pixel: something else, and the thing that is meant.

    Args:
        weights: of background and thing in the loss.
        label: key of ``Sample.labels``, 1 where the thing is.
    """

    num_outputs = 2
    asks = True

    def __init__(
        self, *, weights: tuple[float, float] = (0.9, 1.1), label: str = "referent"
    ) -> None:
        self.weights = weights
        self.label = label

    def loss(self, raw: RawOutput, target: Target) -> dict[str, Tensor]:
        """Cross-entropy, weighted mean over the pixels with a label (VPD and EVP: all pixels)."""
        weight = torch.tensor(self.weights).to(raw.maps)
        ids = torch.where(target.valid, target.label, 0).long()
        surprise = functional.cross_entropy(
            raw.maps.float(), ids, weight=weight.float(), reduction="none"
        )
        counts = weight[ids] * target.valid
        loss = (surprise * target.valid).sum() / counts.sum().clamp(min=1e-6)
        return {"loss": loss, "cross_entropy": loss.detach()}

    def hflip(self, raw: RawOutput) -> RawOutput:
        """Masks move with their pixel; a sentence that says left or right does not."""
        std = None if raw.std is None else raw.std.flip(-1)
        return replace(raw, maps=raw.maps.flip(-1), std=std)

    def decode(self, raw: RawOutput) -> list[MaskPrediction]:
        """The thing where its logit is the larger one."""
        logits = raw.maps.float()
        masks = logits[:, 1] > logits[:, 0]
        sure = logits.softmax(dim=1)[:, 1] if raw.space == "logits" else logits[:, 1]
        return [MaskPrediction(mask, p) for mask, p in zip(masks, sure, strict=True)]

    def truth(self, target: Target) -> list[MaskPrediction]:
        """The labels as perfect predictions."""
        masks = (target.label == 1) & target.valid
        return [MaskPrediction(mask, mask.float()) for mask in masks]

    def draw(self, prediction: MaskPrediction) -> UInt8[Tensor, "3 h w"]:
        """White on black."""
        return (prediction.mask.cpu().to(torch.uint8) * 255).expand(3, -1, -1)

    def panel(
        self, image: Float[Tensor, "3 h w"], truth: MaskPrediction, prediction: MaskPrediction
    ) -> UInt8[Tensor, "3 h w4"]:
        """Image | truth | prediction, both over the image | red where they differ."""
        pixels = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
        wrong = truth.mask.cpu() ^ prediction.mask.cpu()
        parts: Sequence[Tensor] = (
            pixels,
            _over(pixels, truth.mask.cpu()),
            _over(pixels, prediction.mask.cpu()),
            _over(torch.full_like(pixels, 245), wrong),
        )
        return torch.cat(list(parts), dim=2)


def _over(pixels: UInt8[Tensor, "3 h w"], mask: Tensor) -> UInt8[Tensor, "3 h w"]:
    tint = torch.tensor(TINT, dtype=torch.uint8)[:, None, None]
    return torch.where(mask, pixels // 3 + tint // 3 * 2, pixels)
