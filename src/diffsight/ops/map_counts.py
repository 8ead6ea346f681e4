"""Count correct and wrong cells of maps with overlapping classes, without torchmetrics."""

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from diffsight.errors import InputError

THRESHOLDS = tuple(0.35 + 0.05 * k for k in range(7))  # of the probability, as in BEVFusion
Counts = Float64[Tensor, "7 k 3"]
"""True positives, false positives and false negatives, by threshold and class."""


def count_cells(
    probability: Float[Tensor, "b k _ _"],
    label: Float[Tensor, "b k x y"],
    valid: Bool[Tensor, "b x y"],
) -> Counts:
    """Return true positives, false positives and false negatives, by threshold and class.

    Args:
        probability: probability of each class, in [0, 1].
        label: 1 in the cells of a class, 0 elsewhere.
        valid: cells that are counted.

    Raises:
        InputError: if probabilities and labels differ in size.
    """
    require_same_cells((probability.shape[-2], probability.shape[-1]), label)
    is_positive = (label > 0.5) & valid[:, None]
    rows = []
    for threshold in THRESHOLDS:
        is_predicted = (probability >= threshold) & valid[:, None]
        outcomes = (
            is_predicted & is_positive,
            is_predicted & ~is_positive,
            is_positive & ~is_predicted,
        )
        rows.append(torch.stack([one.sum(dim=(0, 2, 3)).double() for one in outcomes], dim=1))
    return torch.stack(rows)


def require_same_cells(hw: tuple[int, int], label: Tensor) -> None:
    """Refuse labels whose size differs from that of a model's maps.

    Args:
        hw: size of the model's maps in cells along x and y.
        label: labels; the last two axes are x and y.

    Raises:
        InputError: if the sizes differ.
    """
    x, y = label.shape[-2:]
    if hw != (x, y):
        raise InputError(
            f"the data set has maps of {x} x {y} cells, the model of {hw[0]} x {hw[1]}: give both "
            "the same number of cells"
        )


def best_iou(counts: Counts) -> Float64[Tensor, " k"]:
    """Return the intersection over union of every class at its best threshold."""
    correct, *wrong = counts.unbind(dim=-1)
    return (correct / (correct + sum(wrong)).clamp(min=1)).amax(dim=0)
