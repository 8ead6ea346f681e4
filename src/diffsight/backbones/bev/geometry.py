"""Where the pixels of several cameras lie in the frame of the vehicle, at every depth."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffsight.errors import InputError
from diffsight.types import Rig

Frustum = Float[Tensor, "d h w 3"]
Points = Float[Tensor, "b v d h w 3"]


@dataclass(frozen=True)
class Axis:
    """One axis of a grid in metres.

    Attributes:
        low_m: where the first cell begins.
        high_m: where the last cell ends.
        step_m: length of a cell.

    Raises:
        InputError: if there is no cell.
    """

    low_m: float
    high_m: float
    step_m: float

    def __post_init__(self) -> None:
        """Refuse an empty axis."""
        if not (self.step_m > 0 and self.high_m > self.low_m):
            raise InputError(
                f"an axis from {self.low_m:g} to {self.high_m:g} m in steps of {self.step_m:g} m "
                "has no cell: give a larger end, and a positive step"
            )

    @property
    def cells(self) -> int:
        """Number of cells."""
        return round((self.high_m - self.low_m) / self.step_m)


def frustum(image_hw: tuple[int, int], grid_hw: tuple[int, int], depth: Axis) -> Frustum:
    """Return column and row in pixels and depth in metres of every cell in front of a camera.

    The cells of a grid are spread evenly over the image, from its first pixel to its last one.
    """
    depths = torch.arange(depth.low_m, depth.high_m, depth.step_m)
    rows = torch.linspace(0, image_hw[0] - 1, grid_hw[0])
    columns = torch.linspace(0, image_hw[1] - 1, grid_hw[1])
    d, y, x = torch.meshgrid(depths, rows, columns, indexing="ij")
    return torch.stack([x, y, d], dim=-1)


def lifted(cells: Frustum, rig: Rig) -> Points:
    """Return the cells of every camera in the frame of the vehicle, in metres.

    The change of the image is undone, the pixel is brought to its depth, and into the frame; that
    of the vehicle (augmentation) is applied in the end.
    """
    change, vehicle = rig.image_change, rig.vehicle_change
    points = cells - _shift(change)[:, :, None, None, None]
    points = _turned(_turn(change).inverse(), points)
    points = torch.cat([points[..., :2] * points[..., 2:], points[..., 2:]], dim=-1)
    to_vehicle = _turn(rig.camera_to_vehicle) @ rig.intrinsics[..., :3, :3].inverse()
    points = _turned(to_vehicle, points) + _shift(rig.camera_to_vehicle)[:, :, None, None, None]
    if vehicle is None:
        return points
    points = _turned(_turn(vehicle)[:, None], points)
    return points + _shift(vehicle)[:, None, None, None, None]


def pooled(
    values: Float[Tensor, "b v d h w c"], points: Points, axes: tuple[Axis, Axis, Axis]
) -> Float[Tensor, "b c z x y"]:
    """Return the sum of the values in every cell of a grid; those outside are left out.

    Cells are counted from 0 towards both sides, as in the authors' code: a point up to one cell
    below the first one is in the first one.

    Args:
        values: of points.
        points: in the frame of the grid.
        axes: of the grid: x, y and z.
    """
    low = points.new_tensor([axis.low_m for axis in axes])
    step = points.new_tensor([axis.step_m for axis in axes])
    counts = [axis.cells for axis in axes]
    # as the authors compute it: the centre of the first cell, minus half a cell
    index = ((points - ((low + step / 2) - step / 2)) / step).long().flatten(1, 4)
    sizes = index.new_tensor(counts)
    inside = ((index >= 0) & (index < sizes)).all(dim=-1) & points.flatten(1, 4).isfinite().all(-1)
    x, y, z = index.where(inside[..., None], 0).unbind(-1)
    images = torch.arange(len(values), device=values.device)[:, None]
    cell: Int[Tensor, " m"] = (((images * counts[2] + z) * counts[0] + x) * counts[1] + y)[inside]
    rows = values.flatten(1, 4)[inside]
    total = len(values) * counts[2] * counts[0] * counts[1]
    sums = rows.new_zeros(total, rows.shape[-1]).index_add(0, cell, rows)
    return sums.reshape(len(values), counts[2], counts[0], counts[1], -1).movedim(-1, 1)


def _turn(matrix: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 3 3"]:
    return matrix[..., :3, :3]


def _shift(matrix: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 3"]:
    return matrix[..., :3, 3]


def _turned(matrix: Float[Tensor, "b _ 3 3"], points: Points) -> Points:
    return (matrix[:, :, None, None, None] @ points[..., None])[..., 0]
