"""Hard voxelisation of LiDAR points: mean features of the occupied cells (as in BEVFusion)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from diffsight.backbones.bev.geometry import Axis
from diffsight.errors import InputError
from diffsight.rig import POINT_CHANNELS

Points = Float[Tensor, "_ 5"]
"""LiDAR points: x, y and z in metres, intensity, and age in seconds."""


@dataclass(frozen=True)
class Voxels:
    """The occupied cells of a batch of grids.

    Attributes:
        features: mean of the points that are kept in each of the ``m`` cells.
        coordinates: row of the batch, and indices of the cell along x, y and z.
        outside: number of points outside the grid, for each row of the batch.
    """

    features: Float[Tensor, "m 5"]
    coordinates: Int64[Tensor, "m 4"]
    outside: Int64[Tensor, " b"]


def voxelise(
    rows: Sequence[Points],
    axes: tuple[Axis, Axis, Axis],
    *,
    max_points: int,
    max_voxels: int,
) -> Voxels:
    """Return the occupied cells of a batch, with the mean of their points.

    If there are too many points or cells, the first ones in the order of the points are kept.

    Args:
        rows: points of every row of the batch.
        axes: axes of the grid: x, y and z.
        max_points: largest number of points of a cell.
        max_voxels: largest number of cells of a row.

    Raises:
        InputError: if a coordinate or feature of a point is not finite.
    """
    features, coordinates, outside = [], [], []
    for row, points in enumerate(rows):
        if damaged := int((~points.isfinite()).any(dim=1).sum()):
            raise InputError(
                f"the LiDAR of row {row} of the batch: {damaged} of {len(points)} points are not "
                "finite: leave them out"
            )
        cells = _cells(points, axes)
        sizes = cells.new_tensor([axis.cells for axis in axes])
        is_inside = ((cells >= 0) & (cells < sizes)).all(dim=1)
        outside.append((~is_inside).sum())
        points, cells = points[is_inside], cells[is_inside]
        means, cells = _mean_points(points, cells, sizes, max_points, max_voxels)
        features.append(means)
        coordinates.append(torch.cat([torch.full_like(cells[:, :1], row), cells], dim=1))
    return Voxels(torch.cat(features), torch.cat(coordinates), torch.stack(outside))


def _cells(points: Points, axes: Sequence[Axis]) -> Int64[Tensor, "_ 3"]:
    """Return the cell of each point along x, y and z, in 32 bit as in the authors' code."""
    low = points.new_tensor([axis.low_m for axis in axes])
    step = points.new_tensor([axis.step_m for axis in axes])
    return ((points[:, :3] - low) / step).floor().long()


def _mean_points(
    points: Points,
    cells: Int64[Tensor, "n 3"],
    sizes: Int64[Tensor, " 3"],
    max_points: int,
    max_voxels: int,
) -> tuple[Float[Tensor, "m 5"], Int64[Tensor, "m 3"]]:
    """Return the mean of the points in each cell, and the cell, in the order of first points.

    Args:
        points: points inside the grid.
        cells: cell of each point.
        sizes: number of cells along x, y and z.
        max_points: as for ``voxelise``.
        max_voxels: as for ``voxelise``.
    """
    keys = (cells[:, 0] * sizes[1] + cells[:, 1]) * sizes[2] + cells[:, 2]
    keys, order = keys.sort(stable=True)
    is_first = torch.cat([keys.new_ones(min(len(keys), 1)), keys.diff()]) != 0
    group = is_first.cumsum(0) - 1
    begin = is_first.nonzero()[:, 0]
    position = torch.arange(len(keys), device=keys.device) - begin[group]
    first = order[begin]  # the sort is stable: the first point of each cell
    rank = first.argsort().argsort()
    kept = (position < max_points) & (rank[group] < max_voxels)
    voxel, position, order = rank[group][kept], position[kept], order[kept]
    count = min(len(first), max_voxels)
    # a slot for each point, so that the sum does not depend on the order in which a GPU writes
    slots = points.new_zeros(count, max_points, POINT_CHANNELS)
    slots[voxel, position] = points[order]
    numbers = voxel.bincount(minlength=count)
    return slots.sum(dim=1) / numbers[:, None], cells[first[first.argsort()[:count]]]
