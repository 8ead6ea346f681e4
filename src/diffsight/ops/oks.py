"""Object keypoint similarity: how well two poses of a person agree."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffsight.types import People

TINY = 2.220446049250313e-16  # that COCO adds to areas


def oks(
    found: Float[Tensor, "p j 3"], people: People, sigmas: Sequence[float]
) -> Float[Tensor, "p m"]:
    """Return the similarity of every pose with every person, in [0, 1] (COCO).

    The mean over the labelled joints of ``exp(-d^2 / (2 area (2 sigma)^2))``; 0 for a person
    without labelled joints.

    Args:
        found: x, y and anything.
        people: with labelled joints.
        sigmas: of the joints.
    """
    truth = people.keypoints.double()
    squared = (found[:, None, :, :2].double() - truth[None, :, :, :2]).square().sum(dim=-1)
    variances = (2 * truth.new_tensor(sigmas)).square()
    areas = people.areas.double()[None, :, None] + TINY
    is_labelled = (truth[..., 2] > 0)[None]
    likeness = torch.exp(-squared / variances / areas / 2) * is_labelled
    return likeness.sum(dim=-1) / is_labelled.sum(dim=-1).clamp(min=1)


def suppressed(
    poses: Float[Tensor, "p j 3"],
    scores: Float[Tensor, " p"],
    areas: Float[Tensor, " p"],
    sigmas: Sequence[float],
    most: float,
) -> Int[Tensor, " q"]:
    """Return the poses to keep, best first: no two of them are more alike than ``most``.

    Args:
        poses: x, y and score of the joints.
        scores: of the poses.
        areas: of the people in pixels; two are compared by the mean of theirs.
        sigmas: of the joints.
        most: similarity.
    """
    variances = (2 * poses.new_tensor(sigmas, dtype=torch.float64)).square()
    rest, kept = scores.argsort(descending=True, stable=True), []
    while len(rest):
        best, rest = rest[0], rest[1:]
        kept.append(int(best))
        squared = (poses[rest, :, :2] - poses[best, :, :2]).double().square().sum(dim=-1)
        area = (areas[rest] + areas[best]).double()[:, None] / 2 + TINY
        likeness = torch.exp(-squared / variances / area / 2).mean(dim=-1)
        rest = rest[likeness <= most]
    return torch.tensor(kept, dtype=torch.long)
