"""The measures of referring segmentation, as its tables have them."""

import torch
from jaxtyping import Float64
from torch import Tensor

from diffsight.errors import InputError
from diffsight.metrics.sums import SumMetric
from diffsight.types import Masks

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


class MaskMetrics(SumMetric):
    """One mask per sentence; ``I`` and ``U`` are the pixels of its intersection and its union.

    ``compute`` gives scalars by name:

    * ``oiou`` = sum of I / sum of U over all sentences: large things weigh more,
    * ``miou`` = mean of I / U over the sentences; 0 where the union is empty,
    * ``p@0.5`` to ``p@0.9``: share of sentences with I / U of at least that.
    """

    def __init__(self) -> None:
        super().__init__(4 + len(THRESHOLDS))

    def update(self, prediction: Masks, target: Masks, valid: Masks) -> None:
        """Add the masks of a batch of sentences; only ``valid`` pixels count."""
        intersection = (prediction & target & valid).flatten(1).sum(dim=1).double()
        union = ((prediction | target) & valid).flatten(1).sum(dim=1).double()
        iou = intersection / union.clamp(min=1)
        totals = [intersection.sum(), union.sum(), iou.sum(), iou.new_tensor(len(iou))]
        hits = (iou[:, None] >= iou.new_tensor(THRESHOLDS)).double().sum(dim=0)
        self.sums += torch.cat([torch.stack(totals), hits])

    def compute(self) -> dict[str, Float64[Tensor, ""]]:
        """The measures by name.

        Raises:
            InputError: if no sentence was seen.
        """
        intersection, union, ious, sentences, *found = self.sums
        if sentences == 0:
            raise InputError("no sentence was seen: check the data set")
        return {
            "oiou": intersection / union.clamp(min=1),
            "miou": ious / sentences,
            **{f"p@{t}": hits / sentences for t, hits in zip(THRESHOLDS, found, strict=True)},
        }
