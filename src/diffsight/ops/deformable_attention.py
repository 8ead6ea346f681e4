"""Deformable attention: attention to a few points of a map (Zhu et al., ICLR 2021), in torch."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

BORDER = 2  # pixels of zeros around a map


def deformable_attention(
    value: Float[Tensor, "b s n d"],
    hw: tuple[int, int],
    points: Float[Tensor, "b q n p 2"],
    weights: Float[Tensor, "b q n p"],
) -> Float[Tensor, "b q n d"]:
    """Return the weighted sum of a map's values at the points of every query.

    Values are interpolated (bilinear), and are 0 outside the map. Every point is a weighted sum of
    four rows of a table: ``embedding_bag`` adds them without a copy of the values, and is faster
    than ``grid_sample`` and a sum.

    Args:
        value: values of ``n`` heads with ``d`` channels at every pixel, row by row.
        hw: height and width of the map in pixels; ``s = h w``.
        points: x and y of ``p`` points for each of ``q`` queries and each head; 0 and 1 are the
            outer edges of the map.
        weights: weights of the points.
    """
    if torch.compiler.is_exporting():
        return _sampled(value, hw, points, weights)
    (height, width), (images, _, heads, _) = hw, value.shape
    # zeros around the map, so that all four neighbours of a point are rows of the table
    maps = value.flatten(2).unflatten(1, hw)
    table = functional.pad(maps, (0, 0, BORDER, BORDER, BORDER, BORDER))
    columns = width + 2 * BORDER
    positions = points * points.new_tensor([width, height]) - 0.5  # whole at pixel centres
    corner = positions.floor()
    right, below = (part.contiguous() for part in (positions - corner).unbind(-1))
    x, y = (
        (corner[..., axis].nan_to_num().clamp(-BORDER, side) + BORDER).int()
        for axis, side in enumerate((width, height))
    )
    rows = images * (height + 2 * BORDER) * columns
    first = torch.arange(0, rows, rows // images, device=x.device, dtype=torch.int)
    head = torch.arange(heads, device=x.device, dtype=torch.int)[:, None]
    pixel = ((first[:, None, None, None] + y * columns) + x) * heads + head
    lower = weights * below
    upper = weights - lower
    lower_right, upper_right = lower * right, upper * right
    neighbours = {
        0: upper - upper_right,
        1: upper_right,
        columns: lower - lower_right,
        columns + 1: lower_right,
    }
    indices = torch.stack([pixel + step * heads for step in neighbours], dim=3)
    factors = torch.stack(list(neighbours.values()), dim=3)
    summed = functional.embedding_bag(
        indices.flatten(3).flatten(0, 2),
        table.flatten(0, 2).unflatten(1, (heads, -1)).flatten(0, 1),
        per_sample_weights=factors.flatten(3).flatten(0, 2).to(value.dtype),
        mode="sum",
    )
    return summed.unflatten(0, points.shape[:3])


def _sampled(
    value: Float[Tensor, "b s n d"],
    hw: tuple[int, int],
    points: Float[Tensor, "b q n p 2"],
    weights: Float[Tensor, "b q n p"],
) -> Float[Tensor, "b q n d"]:
    """Return ``deformable_attention`` by ``grid_sample``, which other runtimes have."""
    maps = value.movedim(1, -1).flatten(0, 1).unflatten(-1, hw)
    grid = 2 * points.movedim(2, 1).flatten(0, 1) - 1
    sampled = functional.grid_sample(maps, grid, mode="bilinear", align_corners=False)
    summed = (sampled * weights.movedim(2, 1).flatten(0, 1)[:, None]).sum(dim=-1)
    return summed.unflatten(0, (-1, value.shape[2])).movedim(-1, 1)
