"""The measures of referring segmentation, as its tables have them."""

import torch
from jaxtyping import Bool, Float64
from torch import Tensor
from torchmetrics import Metric

from diffsight.errors import InputError

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


class MaskMetrics(Metric):
    """One mask per sentence; ``I`` and ``U`` are the pixels of its intersection and its union.

    ``compute`` gives scalars by name:

    * ``oiou`` = sum of I / sum of U over all sentences: large things weigh more,
    * ``miou`` = mean of I / U over the sentences; 0 where the union is empty,
    * ``p@0.5`` to ``p@0.9``: share of sentences with I / U of at least that.
    """

    full_state_update = False
    intersection: Float64[Tensor, ""]
    union: Float64[Tensor, ""]
    ious: Float64[Tensor, ""]
    found: Float64[Tensor, "5"]
    sentences: Float64[Tensor, ""]

    def __init__(self) -> None:
        super().__init__()
        zeros = torch.zeros(len(THRESHOLDS), dtype=torch.float64)
        for name in ("intersection", "union", "ious", "sentences"):
            self.add_state(name, zeros[0].clone(), dist_reduce_fx="sum")
        self.add_state("found", zeros, dist_reduce_fx="sum")

    def update(
        self,
        prediction: Bool[Tensor, "b h w"],
        target: Bool[Tensor, "b h w"],
        valid: Bool[Tensor, "b h w"],
    ) -> None:
        """Add the masks of a batch of sentences; only ``valid`` pixels count."""
        intersection = (prediction & target & valid).flatten(1).sum(dim=1).double()
        union = ((prediction | target) & valid).flatten(1).sum(dim=1).double()
        iou = intersection / union.clamp(min=1)
        self.intersection += intersection.sum()
        self.union += union.sum()
        self.ious += iou.sum()
        self.found += (iou[:, None] >= iou.new_tensor(THRESHOLDS)).double().sum(dim=0)
        self.sentences += len(iou)

    def compute(self) -> dict[str, Float64[Tensor, ""]]:
        """The measures by name.

        Raises:
            InputError: if no sentence was seen.
        """
        if self.sentences == 0:
            raise InputError("no sentence was seen: check the data set")
        shares = self.found / self.sentences
        return {
            "oiou": self.intersection / self.union.clamp(min=1),
            "miou": self.ious / self.sentences,
            **{f"p@{t}": share for t, share in zip(THRESHOLDS, shares, strict=True)},
        }
