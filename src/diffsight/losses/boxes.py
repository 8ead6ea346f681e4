"""Losses for training with bounding boxes instead of masks.

``partial_label_nll``: a pixel inside boxes has one of several classes. The loss is the negative
logarithm of their total probability (Cour, Sapp and Taskar 2011, "Learning from Partial Labels").

``projection_nll``: an object touches all four sides of its box, so every row and column of the box
contains a pixel of the object. The largest probability of each row and column should be 1 (Hsu et
al. 2019, "Weakly Supervised Instance Segmentation using the Bounding Box Tightness Prior"; Tian et
al. 2021, "BoxInst", compares the same projections).

Differs from the paper: BoxInst's pairwise term for neighbouring pixels of similar colour is
omitted, because the frozen features that a method reads already separate different regions.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffsight.types import Boxes, Maps, Masks


def partial_label_nll(
    log_probability: Maps, boxes: Sequence[Boxes | None], valid: Masks
) -> tuple[Tensor, Tensor]:
    """Return the negative log-likelihood of the classes that the boxes allow.

    Args:
        log_probability: logarithm of the probability of every class, ``b k h w``.
        boxes: boxes of each image; None for an image without boxes.
        valid: pixels that have a label; this loss leaves them out.

    Returns:
        The sum over all pixels in boxes without a label, and the number of these pixels.
    """
    total = log_probability.sum() * 0
    count = valid.new_zeros((), dtype=torch.long)
    for log_p, image_boxes, labelled in zip(log_probability, boxes, valid, strict=True):
        if image_boxes is None:
            continue
        allowed = allowed_classes(image_boxes, len(log_p), (labelled.shape[0], labelled.shape[1]))
        pixels = allowed.any(dim=0) & ~labelled
        masked = log_p[:, pixels].masked_fill(~allowed[:, pixels], -torch.inf)
        total = total - masked.logsumexp(dim=0).sum()
        count = count + pixels.sum()
    return total, count


def projection_nll(log_probability: Maps, boxes: Sequence[Boxes | None]) -> Tensor:
    """Return the mean of ``-log(max p)`` over the rows and columns of boxes.

    ``max p`` is the largest probability of the box's class in a row or column. Boxes that extend
    beyond the image are skipped. Without any other box the loss is 0.

    Args:
        log_probability: logarithm of the probability of every class, ``b k h w``.
        boxes: boxes of each image; None for an image without boxes.
    """
    losses = []
    for log_p, image_boxes in zip(log_probability, boxes, strict=True):
        if image_boxes is None:
            continue
        windows = image_boxes.windows((log_p.shape[1], log_p.shape[2]))
        for class_id, window, is_whole in zip(
            image_boxes.class_ids, windows, image_boxes.is_whole, strict=True
        ):
            if is_whole:
                part = log_p[class_id][window]
                losses.append(-torch.cat([part.amax(dim=1), part.amax(dim=0)]).mean())
    return torch.stack(losses).mean() if losses else log_probability.sum() * 0


def allowed_classes(boxes: Boxes, classes: int, hw: tuple[int, int]) -> Bool[Tensor, "k h w"]:
    """Return a mask of the classes that are possible at each pixel.

    Inside a box these are the class of the box and the background. Outside all boxes the mask is
    False for every class.

    Args:
        boxes: boxes of one image.
        classes: number of classes.
        hw: height and width of the mask in pixels.
    """
    allowed = torch.zeros(classes, *hw, dtype=torch.bool, device=boxes.edges.device)
    for box_class, window in zip(boxes.class_ids.tolist(), boxes.windows(hw), strict=True):
        for class_id in (box_class, boxes.background):
            allowed[class_id][window] = True
    return allowed


def check_projections(
    label: Tensor, boxes: Boxes
) -> list[tuple[int, Float[Tensor, " n"], Bool[Tensor, " n"]]]:
    """Return, for every box, in which of its rows and columns its class was predicted.

    Boxes that extend beyond the image are skipped.

    Args:
        label: predicted class of each pixel, ``h w``.
        boxes: boxes of the image.

    Returns:
        For each box: its class; half the length of every row, then of every column, in pixels; and
        whether the class was predicted in that row or column.
    """
    rows = []
    windows = boxes.windows((label.shape[0], label.shape[1]))
    for class_id, window, is_whole in zip(
        boxes.class_ids.tolist(), windows, boxes.is_whole, strict=True
    ):
        if is_whole:
            hits = label[window] == class_id
            height, width = hits.shape
            pixels = label.new_tensor(
                [width / 2] * height + [height / 2] * width, dtype=torch.float
            )
            rows.append((class_id, pixels, torch.cat([hits.any(dim=1), hits.any(dim=0)])))
    return rows
