"""Geometry of lift and splat: 3D points of camera pixels, and sums in the cells of a map."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffsight.errors import InputError
from diffsight.types import Rig

Frustum = Float[Tensor, "d h w 3"]
FrustumPoints = Float[Tensor, "b v d h w 3"]
Range = tuple[float, float, float]
"""Begin, end and step of an axis in metres."""


@dataclass(frozen=True)
class Axis:
    """One axis of a grid in metres.

    Attributes:
        low_m: begin of the first cell.
        high_m: end of the last cell.
        step_m: length of a cell.

    Raises:
        InputError: if the axis has no cell.
    """

    low_m: float
    high_m: float
    step_m: float

    def __post_init__(self) -> None:
        """Refuse an empty axis."""
        if not (self.step_m > 0 and self.high_m > self.low_m and self.cells > 0):
            raise InputError(
                f"an axis from {self.low_m:g} to {self.high_m:g} m in steps of {self.step_m:g} m "
                "has no cell: give a larger end, and a positive step"
            )

    @property
    def cells(self) -> int:
        """Number of cells."""
        return round((self.high_m - self.low_m) / self.step_m)


def make_frustum(
    image_hw: tuple[int, int],
    grid_hw: tuple[int, int],
    depth: Axis,
    device: torch.device | None = None,
) -> Frustum:
    """Return the points of a grid in front of a camera, as column, row (px) and depth (metres).

    Columns and rows are evenly spaced over the image, from its first pixel to its last one.

    Args:
        image_hw: height and width of the image in pixels.
        grid_hw: rows and columns of the grid.
        depth: bins of the depth.
        device: device of the result.
    """
    depths = depth.low_m + depth.step_m * torch.arange(depth.cells, device=device)
    rows = torch.linspace(0, image_hw[0] - 1, grid_hw[0], device=device)
    columns = torch.linspace(0, image_hw[1] - 1, grid_hw[1], device=device)
    d, y, x = torch.meshgrid(depths, rows, columns, indexing="ij")
    return torch.stack([x, y, d], dim=-1)


def lift(frustum: Frustum, rig: Rig) -> FrustumPoints:
    """Return the frustum points of every camera in the frame of the vehicle, in metres.

    ``image_change`` is undone, and each pixel is moved to its depth and into the vehicle's frame.
    ``vehicle_change`` (augmentation) comes last.

    Args:
        frustum: result of ``make_frustum``, in pixels of the rig's images.
        rig: cameras.
    """
    change, vehicle = rig.image_change, rig.vehicle_change
    points = frustum - _translation(change)[:, :, None, None, None]
    points = _multiply(_linear_part(change).inverse(), points)
    points = torch.cat([points[..., :2] * points[..., 2:], points[..., 2:]], dim=-1)
    points = _multiply(rig.intrinsics[..., :3, :3].inverse(), points)
    points = (
        _multiply(_linear_part(rig.camera_to_vehicle), points)
        + _translation(rig.camera_to_vehicle)[:, :, None, None, None]
    )
    if vehicle is None:
        return points
    points = _multiply(_linear_part(vehicle)[:, None], points)
    return points + _translation(vehicle)[:, None, None, None, None]


def pool(
    weights: Float[Tensor, "b v d h w"],
    context: Float[Tensor, "b v c h w"],
    points: FrustumPoints,
    axes: tuple[Axis, Axis, Axis],
) -> Float[Tensor, "b c z x y"]:
    """Return the weighted sum of the features whose points lie in each cell of a grid.

    The depths are added one after another, so that the features of all depths never exist at once.

    Args:
        weights: weight of each depth bin of every pixel.
        context: features of the pixels.
        points: point of every pixel and depth, in the frame of the grid.
        axes: axes of the grid: x, y and z.
    """
    count, _, channels, *_ = context.shape
    x, y, z = (axis.cells for axis in axes)
    cells = cell_indices(points, axes)
    rows = context.movedim(2, -1).reshape(-1, channels)
    rows = rows.to(torch.promote_types(context.dtype, torch.float32))  # 16 bits would round sums
    sums = rows.new_zeros(count * z * x * y + 1, channels)
    for weight, cell in zip(weights.unbind(2), cells.unbind(2), strict=True):
        sums.index_add_(0, cell.flatten(), rows * weight.reshape(-1, 1))
    return sums[:-1].reshape(count, z, x, y, channels).movedim(-1, 1).to(context.dtype)


def cell_indices(points: FrustumPoints, axes: tuple[Axis, Axis, Axis]) -> Int[Tensor, "b v d h w"]:
    """Return the index of the cell of every point, in the order ``b z x y``.

    Points outside the grid get the index after the last cell. Positions are rounded towards 0, as
    in the authors' code: a point less than one cell below the first cell counts as in that cell.

    Args:
        points: points in the frame of the grid, in metres.
        axes: axes of the grid: x, y and z.
    """
    low = points.new_tensor([axis.low_m for axis in axes])
    step = points.new_tensor([axis.step_m for axis in axes])
    counts = [axis.cells for axis in axes]
    # as the authors compute it: the centre of the first cell, minus half a cell
    index = ((points - ((low + step / 2) - step / 2)) / step).long()
    is_inside = (index >= 0) & (index < index.new_tensor(counts)) & points.isfinite()
    x, y, z = index.unbind(-1)
    images = torch.arange(len(points), device=points.device).reshape(-1, 1, 1, 1, 1)
    cell = ((images * counts[2] + z) * counts[0] + x) * counts[1] + y
    return torch.where(is_inside.all(-1), cell, len(points) * counts[0] * counts[1] * counts[2])


def _linear_part(matrix: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 3 3"]:
    return matrix[..., :3, :3]


def _translation(matrix: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 3"]:
    return matrix[..., :3, 3]


def _multiply(matrix: Float[Tensor, "b _ 3 3"], points: FrustumPoints) -> FrustumPoints:
    # not a matrix product, which TF32 would round to centimetres
    return (matrix[:, :, None, None, None] * points[..., None, :]).sum(dim=-1)
