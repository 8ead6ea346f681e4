"""Attention to a few points of a map, in plain torch (Zhu et al., Deformable DETR, ICLR 2021)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def deformable_attention(
    value: Float[Tensor, "b s n d"],
    hw: tuple[int, int],
    points: Float[Tensor, "b q n p 2"],
    weights: Float[Tensor, "b q n p"],
) -> Float[Tensor, "b q n d"]:
    """Return the weighted sum of a map's values at the points of every query.

    Values are interpolated (bilinear), and 0 outside of the map. Every point is four rows of a
    table and their factors: ``embedding_bag`` adds them up without a copy of the values, in less
    than the time of ``grid_sample`` and a sum.

    Args:
        value: of ``n`` heads, for every pixel, row by row.
        hw: height and width of the map, ``s = h w``.
        points: x and y; 0 and 1 are the outer edges of the map.
        weights: of the points of a query.
    """
    (height, width), (images, pixels, heads, _) = hw, value.shape
    places = points * points.new_tensor([width, height]) - 0.5  # of a pixel's centre: whole
    corner = places.floor()
    (x, y), (right, down) = corner.long().unbind(-1), (places - corner).unbind(-1)
    # the first row of a map in the table, and the head's place in the row of a pixel
    first = torch.arange(images, device=value.device)[:, None, None, None] * pixels
    head = torch.arange(heads, device=value.device)[:, None]
    rows, factors = [], []
    for line, vertical in ((y, 1 - down), (y + 1, down)):
        for column, horizontal in ((x, 1 - right), (x + 1, right)):
            inside = (line >= 0) & (line < height) & (column >= 0) & (column < width)
            pixel = first + line.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            rows.append(pixel * heads + head)
            factors.append(vertical * horizontal * inside * weights)
    summed = functional.embedding_bag(
        torch.stack(rows, dim=-1).flatten(3).flatten(0, 2),
        value.flatten(0, 2),
        per_sample_weights=torch.stack(factors, dim=-1).flatten(3).flatten(0, 2).to(value.dtype),
        mode="sum",
    )
    return summed.unflatten(0, points.shape[:3])
