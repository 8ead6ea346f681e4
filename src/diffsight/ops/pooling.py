"""Pooling of maps to a fixed number of cells."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def mean_of_cells(maps: Float[Tensor, "b c h w"], cells: int) -> Float[Tensor, "b c cells cells"]:
    """Return the mean of the maps in every cell of a grid (adaptive average pooling).

    Cell i of n pixels has the pixels from ``floor(i n / cells)`` to ``ceil((i + 1) n / cells)``;
    neighbouring cells may share a pixel. An exported graph would contain the kernel of the traced
    size and compute wrong means at other sizes, so there it is two matrix products.

    Args:
        maps: maps to pool.
        cells: cells along each side.
    """
    if not torch.compiler.is_exporting():
        return functional.adaptive_avg_pool2d(maps, cells)
    rows, columns = (_cell_weights(side, cells).to(maps) for side in maps.shape[-2:])
    return rows @ maps @ columns.mT


def _cell_weights(side: int, cells: int) -> Float[Tensor, "cells {side}"]:
    """Return the weight of every pixel in the mean of every cell, along one side."""
    pixel = torch.arange(side)
    cell = torch.arange(cells)[:, None]
    first, stop = cell * side // cells, -((cell + 1) * -side // cells)
    is_inside = ((pixel >= first) & (pixel < stop)).float()
    return is_inside / is_inside.sum(dim=1, keepdim=True)
