"""Object keypoint similarity (OKS) of poses, as in COCO."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffsight.types import People

EPSILON = 2.220446049250313e-16  # added to areas, as in COCO


def oks(
    poses: Float[Tensor, "p j 3"], people: People, sigmas: Sequence[float]
) -> Float[Tensor, "p m"]:
    """Return the similarity of each of ``p`` poses to each of ``m`` people, in [0, 1] (COCO).

    It is the mean over the labelled joints of ``exp(-d^2 / (2 area (2 sigma)^2))``, where d is the
    distance of predicted and labelled joint. It is 0 for a person without labelled joints.

    Args:
        poses: x and y of the joints in pixels, and a third number (not used).
        people: people with labelled joints.
        sigmas: tolerance of each joint, relative to the square root of the area.
    """
    truth = people.keypoints.double()
    squared = (poses[:, None, :, :2].double() - truth[None, :, :, :2]).square().sum(dim=-1)
    variances = (2 * truth.new_tensor(sigmas)).square()
    areas = people.areas.double()[None, :, None] + EPSILON
    is_labelled = (truth[..., 2] > 0)[None]
    similarity = torch.exp(-squared / variances / areas / 2) * is_labelled
    return similarity.sum(dim=-1) / is_labelled.sum(dim=-1).clamp(min=1)


def suppress_similar_poses(
    poses: Float[Tensor, "p j 3"],
    scores: Float[Tensor, " p"],
    areas: Float[Tensor, " p"],
    sigmas: Sequence[float],
    most: float,
) -> Int[Tensor, " q"]:
    """Return the indices of the poses to keep, best first (greedy non-maximum suppression).

    Args:
        poses: x and y of the joints in pixels, and their score (not used).
        scores: scores of the poses.
        areas: areas of the people in square pixels; two poses are compared at their mean area.
        sigmas: tolerance of each joint, relative to the square root of the area.
        most: largest similarity of two poses that are both kept, in [0, 1].
    """
    variances = (2 * poses.new_tensor(sigmas, dtype=torch.float64)).square()
    rest, kept = scores.argsort(descending=True, stable=True), []
    while len(rest):
        best, rest = rest[0], rest[1:]
        kept.append(int(best))
        squared = (poses[rest, :, :2] - poses[best, :, :2]).double().square().sum(dim=-1)
        area = (areas[rest] + areas[best]).double()[:, None] / 2 + EPSILON
        similarity = torch.exp(-squared / variances / area / 2).mean(dim=-1)
        rest = rest[similarity <= most]
    return torch.tensor(kept, dtype=torch.long)
