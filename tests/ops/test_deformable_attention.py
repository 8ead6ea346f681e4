"""Attention to a few points of a map."""

import math

import torch
from tests.support import noise

from diffsight.ops.deformable_attention import deformable_attention


def by_hand(value: torch.Tensor, points: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """One query, head and point after another; pixels outside of the map are 0."""
    b, n, d, h, w = value.shape
    found = torch.zeros(b, n, d, points.shape[2])
    for i, j, q in ((i, j, q) for i in range(b) for j in range(n) for q in range(points.shape[2])):
        for p in range(points.shape[3]):
            x, y = (points[i, j, q, p] * torch.tensor([w, h]) - 0.5).tolist()
            left, top = math.floor(x), math.floor(y)
            for row, column in ((r, c) for r in (top, top + 1) for c in (left, left + 1)):
                if 0 <= row < h and 0 <= column < w:
                    share = (1 - abs(x - column)) * (1 - abs(y - row))
                    found[i, j, :, q] += weights[i, j, q, p] * share * value[i, j, :, row, column]
    return found


def test_it_is_the_weighted_sum_of_interpolated_values() -> None:
    value = noise(2, 3, 4, 5, 7, seed=1)
    points = 0.5 + 0.45 * noise(2, 3, 6, 4, 2, seed=2)  # some lie outside
    weights = noise(2, 3, 6, 4, seed=3).softmax(dim=-1)
    assert (points < 0).any()
    assert (points > 1).any()
    found = deformable_attention(value, points, weights)
    torch.testing.assert_close(found, by_hand(value, points, weights), rtol=1e-5, atol=1e-5)


def test_half_precision_stays_near() -> None:
    value = noise(1, 2, 4, 6, 6, seed=1)
    points = 0.5 + 0.2 * noise(1, 2, 5, 4, 2, seed=2)
    weights = noise(1, 2, 5, 4, seed=3).softmax(dim=-1)
    whole = deformable_attention(value, points, weights)
    half = deformable_attention(value.bfloat16(), points, weights)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), whole, rtol=0.05, atol=0.05)
