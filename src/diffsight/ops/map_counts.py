"""Counts of cells of maps with classes that may overlap; without torchmetrics, for tasks."""

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from diffsight.errors import InputError

THRESHOLDS = tuple(0.35 + 0.05 * k for k in range(7))  # of the probability (BEVFusion)
Counts = Float64[Tensor, "7 k 3"]


def count_cells(
    probability: Float[Tensor, "b k _ _"],
    label: Float[Tensor, "b k x y"],
    valid: Bool[Tensor, "b x y"],
) -> Counts:
    """Return true and false positives and false negatives, by threshold and class.

    Raises:
        InputError: if the maps differ in size.
    """
    require_same_cells((probability.shape[-2], probability.shape[-1]), label)
    is_there = (label > 0.5) & valid[:, None]
    rows = []
    for threshold in THRESHOLDS:
        is_predicted = (probability >= threshold) & valid[:, None]
        counts = (is_predicted & is_there, is_predicted & ~is_there, is_there & ~is_predicted)
        rows.append(torch.stack([one.sum(dim=(0, 2, 3)).double() for one in counts], dim=1))
    return torch.stack(rows)


def require_same_cells(hw: tuple[int, int], label: Tensor) -> None:
    """Refuse labels of another size than the maps of a model.

    Raises:
        InputError: if they differ.
    """
    x, y = label.shape[-2:]
    if hw != (x, y):
        raise InputError(
            f"the data set has maps of {x} x {y} cells, the model of {hw[0]} x {hw[1]}: give both "
            "the same number of cells"
        )


def best_iou(counts: Counts) -> Float64[Tensor, " k"]:
    """Return the intersection over union of every class at its best threshold."""
    right, *wrong = counts.unbind(dim=-1)
    return (right / (right + sum(wrong)).clamp(min=1)).amax(dim=0)
