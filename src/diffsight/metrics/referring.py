"""The metrics of referring segmentation."""

import torch
from jaxtyping import Float64
from torch import Tensor

from diffsight.errors import InputError
from diffsight.metrics.sums import SumMetric
from diffsight.types import Masks

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


class MaskMetrics(SumMetric):
    """Overlap of one predicted mask per sentence with the true mask.

    ``I`` and ``U`` are the numbers of pixels of intersection and union. ``compute`` returns scalars
    by name, in [0, 1]:

    * ``oiou`` = sum of I / sum of U over all sentences, so large objects weigh more,
    * ``miou`` = mean of I / U over the sentences; I / U is 0 if the union is empty,
    * ``p@0.5`` to ``p@0.9``: fraction of sentences whose I / U is at least 0.5 to 0.9.
    """

    def __init__(self) -> None:
        super().__init__(4 + len(THRESHOLDS))

    def update(self, prediction: Masks, target: Masks, valid: Masks) -> None:
        """Add the masks of a batch of sentences.

        Args:
            prediction: predicted masks.
            target: true masks.
            valid: pixels that count.
        """
        intersection = (prediction & target & valid).flatten(1).sum(dim=1).double()
        union = ((prediction | target) & valid).flatten(1).sum(dim=1).double()
        iou = intersection / union.clamp(min=1)
        totals = [intersection.sum(), union.sum(), iou.sum(), iou.new_tensor(len(iou))]
        hits = (iou[:, None] >= iou.new_tensor(THRESHOLDS)).double().sum(dim=0)
        self.sums += torch.cat([torch.stack(totals), hits])

    def compute(self) -> dict[str, Float64[Tensor, ""]]:
        """Return the metrics by name.

        Raises:
            InputError: if no sentence was seen.
        """
        intersection, union, ious, sentences, *hits = self.sums
        if sentences == 0:
            raise InputError("no sentence was seen: check the data set")
        return {
            "oiou": intersection / union.clamp(min=1),
            "miou": ious / sentences,
            **{f"p@{t}": count / sentences for t, count in zip(THRESHOLDS, hits, strict=True)},
        }
