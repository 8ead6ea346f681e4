"""Attention to a few points of a map."""

import math

import torch
from tests.support import noise

from diffsight.ops.deformable_attention import deformable_attention


def drawn(images: int, heads: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Maps of 5 x 7 pixels, and four points for each of six queries; some lie outside."""
    value = noise(images, heads, 4, 5, 7, seed=1)
    points = 0.5 + 0.45 * noise(images, 6, heads, 4, 2, seed=2)
    return value, points, noise(images, 6, heads, 4, seed=3).softmax(dim=-1)


def tokens(value: torch.Tensor) -> torch.Tensor:
    """The maps, pixel by pixel."""
    return value.flatten(3).permute(0, 3, 1, 2)


def by_hand(value: torch.Tensor, points: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """One query, head and point after another; pixels outside of the map are 0."""
    b, n, d, h, w = value.shape
    found = torch.zeros(b, points.shape[1], n, d)
    for i, j, q in ((i, j, q) for i in range(b) for j in range(n) for q in range(points.shape[1])):
        for p in range(points.shape[3]):
            x, y = (points[i, q, j, p] * torch.tensor([w, h]) - 0.5).tolist()
            left, top = math.floor(x), math.floor(y)
            for row, column in ((r, c) for r in (top, top + 1) for c in (left, left + 1)):
                if 0 <= row < h and 0 <= column < w:
                    share = (1 - abs(x - column)) * (1 - abs(y - row))
                    found[i, q, j] += weights[i, q, j, p] * share * value[i, j, :, row, column]
    return found


def test_it_is_the_weighted_sum_of_interpolated_values() -> None:
    value, points, weights = drawn(2, 3)
    assert (points < 0).any()
    assert (points > 1).any()
    found = deformable_attention(tokens(value), (5, 7), points, weights)
    torch.testing.assert_close(found, by_hand(value, points, weights), rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_grid_sample() -> None:
    """Of values, points and weights, in double precision."""
    value, points, weights = (one.double().requires_grad_() for one in drawn(2, 3))
    upstream = noise(2, 6, 3, 4, seed=4).double()
    ours = deformable_attention(tokens(value), (5, 7), points, weights)
    grid = (2 * points - 1).transpose(1, 2).flatten(0, 1)
    sampled = torch.nn.functional.grid_sample(value.flatten(0, 1), grid, align_corners=False)
    theirs = (sampled * weights.transpose(1, 2).flatten(0, 1)[:, None]).sum(dim=-1)
    theirs = theirs.unflatten(0, (2, 3)).permute(0, 3, 1, 2)
    for found, expected in zip(
        torch.autograd.grad((ours * upstream).sum(), (value, points, weights)),
        torch.autograd.grad((theirs * upstream).sum(), (value, points, weights)),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_stays_near() -> None:
    value, points, weights = drawn(1, 2)
    whole = deformable_attention(tokens(value), (5, 7), points, weights)
    half = deformable_attention(tokens(value).bfloat16(), (5, 7), points, weights)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), whole, rtol=0.05, atol=0.05)


def test_points_that_are_no_numbers_give_none() -> None:
    value, points, weights = drawn(1, 2)
    points[0, 0, 0, 0] = torch.nan
    points[0, 1, 0, 0] = torch.inf
    found = deformable_attention(tokens(value), (5, 7), points, weights)
    assert found[0, 0, 0].isnan().all()
    assert found[0, 2:].isfinite().all()
