"""Semantic segmentation: cross-entropy, class ids with their names, and pictures of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from diffsight.errors import InputError
from diffsight.label_maps import class_names
from diffsight.tasks.answers import Answering
from diffsight.tasks.base import AbstractTask
from diffsight.tasks.class_pictures import Colour, draw, draw_wrong, palette
from diffsight.types import ClassPrediction, RawOutput, Target

NONE = -1  # id of a pixel whose label means nothing


class Semantic(Answering, AbstractTask):
    """One of several classes per pixel; ids run from 0 in the order of the names.

    Args:
        names: of the classes, or the name of a list (``label_maps``).
        colours: RGB of the classes, 0 to 255; default: a palette of our own.
        weights: of the classes in the loss; default: all 1.
        label: key of ``Sample.labels``, ids.

    Raises:
        InputError: if names are repeated, or colours or weights are not as many.
    """

    def __init__(
        self,
        names: str | Sequence[str],
        *,
        colours: Sequence[Colour] | None = None,
        weights: Sequence[float] | None = None,
        label: str = "semantic",
    ) -> None:
        names = class_names(names)
        if len(set(names)) != len(names) or len(names) < 2:
            raise InputError("segmentation needs two or more different class names")
        for what, given in (("colours", colours), ("weights", weights)):
            if given is not None and len(given) != len(names):
                raise InputError(f"{len(names)} classes, but {len(given)} {what}: give one each")
        self.names: Mapping[int, str] = dict(enumerate(names))
        self.colours: Mapping[int, Colour] = dict(enumerate(colours or palette(len(names))))
        self.weights = None if weights is None else torch.tensor(weights)
        self.num_outputs = len(names)
        self.label = label

    def loss(self, raw: RawOutput, target: Target) -> dict[str, Tensor]:
        """Cross-entropy, mean over the pixels with a label (weighted, where classes have weights).

        0 with its graph where no pixel has one. Differs from the authors' code: their mean counts
        the pixels without a label too (a default of mmsegmentation 0.30), which scales the loss.
        """
        weight = None if self.weights is None else self.weights.to(raw.maps)
        ids = torch.where(target.valid, target.label, NONE)
        total = functional.cross_entropy(
            _logits(raw), ids, weight=weight, ignore_index=NONE, reduction="sum"
        )
        counts = target.valid if weight is None else weight[ids.clamp(min=0)] * target.valid
        loss = total / counts.sum().clamp(min=1e-6)
        return {"loss": loss, "cross_entropy": loss.detach()}

    def hflip(self, raw: RawOutput) -> RawOutput:
        """Classes move with their pixel."""
        auxiliary = {name: value.flip(-1) for name, value in raw.auxiliary.items()}
        std = None if raw.std is None else raw.std.flip(-1)
        return replace(raw, maps=raw.maps.flip(-1), auxiliary=auxiliary, std=std)

    def decode(self, raw: RawOutput) -> list[ClassPrediction]:
        """The most probable class of every pixel, out of those that may be answered."""
        maps = raw.maps.float() if raw.space == "probability" else _logits(raw).softmax(dim=1)
        confidence, ids = self.among_answers(maps).max(dim=1)
        pairs = zip(ids, confidence, strict=True)
        return [ClassPrediction(one, sure, self.names, self.colours) for one, sure in pairs]

    def truth(self, target: Target) -> list[ClassPrediction]:
        """The labels as perfect predictions, -1 where they mean nothing."""
        ids = torch.where(target.valid, target.label, NONE)
        sure = target.valid.float()
        pairs = zip(ids, sure, strict=True)
        return [ClassPrediction(one, known, self.names, self.colours) for one, known in pairs]

    def draw(self, prediction: ClassPrediction) -> UInt8[Tensor, "3 h w"]:
        """In the colours of the classes."""
        return draw(prediction)

    def panel(
        self, image: Float[Tensor, "3 h w"], truth: ClassPrediction, prediction: ClassPrediction
    ) -> UInt8[Tensor, "3 h w4"]:
        """Image | truth | prediction | error; nothing is wrong where there is no label."""
        known = replace(truth, ids=torch.where(truth.ids == NONE, prediction.ids, truth.ids))
        parts = (
            (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8),
            draw(truth),
            draw(prediction),
            draw_wrong(known, prediction),
        )
        return torch.cat(parts, dim=2)


def _logits(raw: RawOutput) -> Float[Tensor, "b k h w"]:
    if raw.space != "logits":
        raise ValueError(f"segmentation learns from logits, got {raw.space!r}: use another head")
    return raw.maps.float()
