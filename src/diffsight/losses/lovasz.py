"""The Lovász-softmax loss (Berman et al., CVPR 2018), a surrogate of 1 minus the mean IoU."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def lovasz_softmax(
    probability: Float[Tensor, "b k h w"], ids: Int[Tensor, "b h w"], valid: Bool[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """Return the Lovász-softmax loss of a batch: the mean over the classes that occur in it.

    Without a labelled pixel the loss is 0, connected to the graph of ``probability``.

    Args:
        probability: probability of every class.
        ids: true class of each pixel.
        valid: pixels with a label; all others are ignored.
    """
    rows = probability.movedim(1, -1)[valid]
    labels = ids[valid]
    losses = [_class_loss((labels == k).to(rows), rows[:, k]) for k in labels.unique()]
    return torch.stack(losses).mean() if losses else 0.0 * probability.sum()


def _class_loss(truth: Float[Tensor, " p"], probability: Float[Tensor, " p"]) -> Float[Tensor, ""]:
    """Return the Lovász extension of the Jaccard loss of one class at the errors of its pixels."""
    errors, order = (truth - probability).abs().sort(descending=True)
    truth = truth[order]
    total = truth.sum()
    # Jaccard loss if the 1, 2, 3 ... pixels with the largest errors were mispredicted
    jaccard = 1 - (total - truth.cumsum(0)) / (total + (1 - truth).cumsum(0))
    gradient = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
    return errors @ gradient
