"""Losses of boxes: which classes a pixel may have, and that every box shows its class.

A pixel in boxes has one of several classes: its loss is the negative logarithm of their total
probability (Cour, Sapp and Taskar 2011, "Learning from Partial Labels"). An object touches all four
sides of its box, so that every row and column of the box holds a pixel of it: the largest
probability of each should be 1 (Hsu et al. 2019, "Weakly Supervised Instance Segmentation using the
Bounding Box Tightness Prior"; Tian et al. 2021, "BoxInst", compares the same projections).

Differs from the paper: of BoxInst, the term of neighbouring pixels with similar colours is left
out, because the frozen features that a method reads already tell similar places.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffsight.types import Boxes, Maps, Masks


def partial_label_nll(
    log_probability: Maps, boxes: Sequence[Boxes | None], valid: Masks
) -> tuple[Tensor, Tensor]:
    """Return the negative log-likelihood of the classes that boxes allow, and its pixels.

    Args:
        log_probability: of every class, for each image of a batch.
        boxes: of each image.
        valid: pixels whose class is known, which are left out.

    Returns:
        Sum over the pixels in boxes, and their number.
    """
    total = log_probability.sum() * 0
    count = valid.new_zeros((), dtype=torch.long)
    for log_p, some, known in zip(log_probability, boxes, valid, strict=True):
        if some is None:
            continue
        allowed = allowed_classes(some, len(log_p), (known.shape[0], known.shape[1]))
        pixels = allowed.any(dim=0) & ~known
        masked = log_p[:, pixels].masked_fill(~allowed[:, pixels], -torch.inf)
        total = total - masked.logsumexp(dim=0).sum()
        count = count + pixels.sum()
    return total, count


def projection_nll(log_probability: Maps, boxes: Sequence[Boxes | None]) -> Tensor:
    """Return the mean over all boxes of -log max p of their class, over rows and columns.

    Boxes of which a part lies outside the image are left out; 0 where there are no others.
    """
    losses = []
    for log_p, some in zip(log_probability, boxes, strict=True):
        if some is None:
            continue
        windows = some.windows((log_p.shape[1], log_p.shape[2]))
        for number, window, whole in zip(some.class_ids, windows, some.is_whole, strict=True):
            if whole:
                part = log_p[number][window]
                losses.append(-torch.cat([part.amax(dim=1), part.amax(dim=0)]).mean())
    return torch.stack(losses).mean() if losses else log_probability.sum() * 0


def allowed_classes(boxes: Boxes, classes: int, hw: tuple[int, int]) -> Bool[Tensor, "k h w"]:
    """Return which classes a pixel in a box may have; none outside all boxes."""
    allowed = torch.zeros(classes, *hw, dtype=torch.bool, device=boxes.edges.device)
    for number, window in zip(boxes.class_ids.tolist(), boxes.windows(hw), strict=True):
        for one in (number, boxes.background):
            allowed[one][window] = True
    return allowed


def projections(
    label: Tensor, boxes: Boxes
) -> list[tuple[int, Float[Tensor, " n"], Bool[Tensor, " n"]]]:
    """Return where the classes of whole boxes were predicted, by their rows and columns.

    Args:
        label: predicted numbers of classes ``h w``.
        boxes: of the image.

    Returns:
        The number of the class; half of the length of every row and column; and whether its class
        occurs in it.
    """
    rows = []
    windows = boxes.windows((label.shape[0], label.shape[1]))
    for number, window, whole in zip(
        boxes.class_ids.tolist(), windows, boxes.is_whole, strict=True
    ):
        if whole:
            hit = label[window] == number
            height, width = hit.shape
            pixels = label.new_tensor(
                [width / 2] * height + [height / 2] * width, dtype=torch.float
            )
            rows.append((number, pixels, torch.cat([hit.any(dim=1), hit.any(dim=0)])))
    return rows
