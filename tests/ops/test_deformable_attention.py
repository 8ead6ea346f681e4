"""Deformable attention: values, gradients, and points outside the map."""

import math

import pytest
import torch
from tests.support import noise

from diffsight.ops.deformable_attention import deformable_attention


def make_inputs(images: int, heads: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return maps of 5 x 7 pixels, and four points for each of six queries; some lie outside."""
    value = noise(images, heads, 4, 5, 7, seed=1)
    points = 0.5 + 0.45 * noise(images, 6, heads, 4, 2, seed=2)
    return value, points, noise(images, 6, heads, 4, seed=3).softmax(dim=-1)


def tokens(value: torch.Tensor) -> torch.Tensor:
    """Return the maps pixel by pixel."""
    return value.flatten(3).permute(0, 3, 1, 2)


def attend_in_a_loop(
    value: torch.Tensor, points: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return the attention from a loop over all points; pixels outside the map are 0."""
    b, n, d, h, w = value.shape
    sums = torch.zeros(b, points.shape[1], n, d)
    for i, j, q in ((i, j, q) for i in range(b) for j in range(n) for q in range(points.shape[1])):
        for p in range(points.shape[3]):
            x, y = (points[i, q, j, p] * torch.tensor([w, h]) - 0.5).tolist()
            left, top = math.floor(x), math.floor(y)
            for row, column in ((r, c) for r in (top, top + 1) for c in (left, left + 1)):
                if 0 <= row < h and 0 <= column < w:
                    factor = (1 - abs(x - column)) * (1 - abs(y - row))
                    sums[i, q, j] += weights[i, q, j, p] * factor * value[i, j, :, row, column]
    return sums


def test_the_result_is_the_weighted_sum_of_interpolated_values() -> None:
    value, points, weights = make_inputs(2, 3)
    assert (points < 0).any()
    assert (points > 1).any()
    attended = deformable_attention(tokens(value), (5, 7), points, weights)
    torch.testing.assert_close(
        attended, attend_in_a_loop(value, points, weights), rtol=1e-5, atol=1e-5
    )


def test_gradients_equal_those_of_grid_sample() -> None:
    """The gradients of values, points and weights, in double precision."""
    value, points, weights = (one.double().requires_grad_() for one in make_inputs(2, 3))
    upstream = noise(2, 6, 3, 4, seed=4).double()
    ours = deformable_attention(tokens(value), (5, 7), points, weights)
    grid = (2 * points - 1).transpose(1, 2).flatten(0, 1)
    sampled = torch.nn.functional.grid_sample(value.flatten(0, 1), grid, align_corners=False)
    theirs = (sampled * weights.transpose(1, 2).flatten(0, 1)[:, None]).sum(dim=-1)
    theirs = theirs.unflatten(0, (2, 3)).permute(0, 3, 1, 2)
    for gradient, expected in zip(
        torch.autograd.grad((ours * upstream).sum(), (value, points, weights)),
        torch.autograd.grad((theirs * upstream).sum(), (value, points, weights)),
        strict=True,
    ):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_changes_the_result_only_slightly() -> None:
    value, points, weights = make_inputs(1, 2)
    whole = deformable_attention(tokens(value), (5, 7), points, weights)
    half = deformable_attention(tokens(value).bfloat16(), (5, 7), points, weights)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), whole, rtol=0.05, atol=0.05)


def test_points_that_are_not_finite_give_nan_only_for_their_query() -> None:
    value, points, weights = make_inputs(1, 2)
    points[0, 0, 0, 0] = torch.nan
    points[0, 1, 0, 0] = torch.inf
    attended = deformable_attention(tokens(value), (5, 7), points, weights)
    assert attended[0, 0, 0].isnan().all()
    assert attended[0, 2:].isfinite().all()


def test_sampling_in_a_graph_gives_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    value, points, weights = make_inputs(2, 3)
    expected = deformable_attention(tokens(value), (5, 7), points, weights)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    found = deformable_attention(tokens(value), (5, 7), points, weights)
    torch.testing.assert_close(found, expected)
