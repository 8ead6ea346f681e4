"""Attention to a few points of a map, in plain torch (Zhu et al., Deformable DETR, ICLR 2021)."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def deformable_attention(
    value: Float[Tensor, "b n d h w"],
    points: Float[Tensor, "b n q p 2"],
    weights: Float[Tensor, "b n q p"],
) -> Float[Tensor, "b n d q"]:
    """Return the weighted sum of a map's values at the points of every query.

    Values are interpolated (bilinear), and 0 outside of the map.

    Args:
        value: of ``n`` heads.
        points: x and y; 0 and 1 are the outer edges of the map.
        weights: of the points of a query.
    """
    rows = value.flatten(0, 1)
    grid = (2 * points - 1).flatten(0, 1).to(rows.dtype)
    sampled = functional.grid_sample(
        rows, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    summed = (sampled * weights.flatten(0, 1)[:, None].to(sampled.dtype)).sum(dim=-1)
    return summed.unflatten(0, value.shape[:2])
