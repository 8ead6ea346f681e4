"""Segmentation of the user's own classes."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor

from diffsight.codecs import AbstractCodec
from diffsight.tasks.answers import Answering
from diffsight.tasks.class_pictures import draw, draw_wrong
from diffsight.tasks.dense import AbstractDense
from diffsight.types import ClassPrediction, RawOutput, Target


class Classes(Answering, AbstractDense):
    """Segmentation; mIoU in percent from the confusion of all pixels.

    Args:
        codec: discrete.
        ids: of the classes, as the label files have them.
        names: of the classes, in the order of ``ids``.
        colours: RGB of the classes.
    """

    score_name = "mIoU, %"
    higher_is_better = True

    def __init__(
        self,
        codec: AbstractCodec,
        *,
        ids: Sequence[int],
        names: Sequence[str],
        colours: Sequence[tuple[int, int, int]],
    ) -> None:
        super().__init__(codec)
        self.ids = tuple(ids)
        self.names: Mapping[int, str] = dict(zip(self.ids, names, strict=True))
        self.palette: Mapping[int, tuple[int, int, int]] = dict(zip(self.ids, colours, strict=True))

    def decode(self, raw: RawOutput) -> list[ClassPrediction]:
        """The most probable class of every pixel, out of those that may be answered."""
        confidence, place = self.among_answers(raw.maps.float()).max(dim=1)
        stored = torch.tensor(self.ids, device=place.device)[place]
        return [
            ClassPrediction(ids, sure, self.names, self.palette)
            for ids, sure in zip(stored, confidence, strict=True)
        ]

    def measure(self, raw: RawOutput, target: Target) -> Float64[Tensor, "n n"]:
        """Pixels by true and found class."""
        n = self.num_outputs
        pair = target.label[:, 0].long() * n + raw.maps.argmax(dim=1)
        return torch.bincount(pair[target.valid], minlength=n * n).double().reshape(n, n)

    def score(self, sums: Float64[Tensor, "n n"]) -> float:
        """Over the classes that occur."""
        truth, found = sums.sum(dim=1), sums.diagonal()
        iou = found / (truth + sums.sum(dim=0) - found).clamp(min=1)
        return 100 * float(iou[truth > 0].mean())

    def constant(
        self, label: Float[Tensor, "b 1 h w"], valid: Bool[Tensor, "b h w"]
    ) -> Float[Tensor, "1"]:
        """The most frequent class."""
        return torch.bincount(label[:, 0][valid].long()).argmax()[None].float()

    def draw(self, prediction: ClassPrediction) -> UInt8[Tensor, "3 h w"]:
        """In the colours of the classes."""
        return draw(prediction)

    def draw_error(
        self, truth: ClassPrediction, prediction: ClassPrediction
    ) -> UInt8[Tensor, "3 h w"]:
        """Red where the class is wrong."""
        return draw_wrong(truth, prediction)
