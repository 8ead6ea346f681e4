"""First hits of camera rays, and shadows: which primitive, how far.

Camera rays have direction ``(x, y, 1)`` in camera axes, so that ``t`` is the z-depth in metres. In
the frame of a primitive each component of the direction is a number per column plus a number per
row, and a primitive is only tried inside the rectangle that the box around it covers.
"""

from dataclasses import dataclass

import numpy as np

from diffsight.datasets.rooms.primitives import intersect
from diffsight.datasets.rooms.world import Primitive, Scene, View, compose, length, rotate

NEAR_M = 0.05


@dataclass(frozen=True)
class Grid:
    """Image-plane coordinates of rays: one number per column and one per row, at depth 1."""

    x: np.ndarray
    y: np.ndarray

    @classmethod
    def of_image(
        cls, view: View, height: int, width: int, per_pixel: int = 1, dtype: type = np.float64
    ) -> "Grid":
        """Rays through pixel centres, or ``per_pixel`` x ``per_pixel`` places of each pixel."""
        focal = view.focal_px(height, width)
        columns = (np.arange(width * per_pixel) + 0.5) / per_pixel - width / 2
        rows = (np.arange(height * per_pixel) + 0.5) / per_pixel - height / 2
        return cls((columns / focal).astype(dtype), (rows / focal).astype(dtype))


@dataclass(frozen=True)
class Hits:
    """What camera rays meet first: z-depth in metres and index of the primitive, ``h w`` each."""

    depth_m: np.ndarray
    primitive: np.ndarray


def camera_frame(primitive: Primitive, view: View) -> tuple[np.ndarray, np.ndarray]:
    """The camera in a primitive's frame: its position, and its axes as columns."""
    inverse = primitive.rotation.T
    return rotate(inverse, view.position - primitive.centre), compose(inverse, view.rotation)


def local_rays(
    primitive: Primitive, view: View, x: np.ndarray, y: np.ndarray
) -> tuple[list[float], list[np.ndarray]]:
    """Origin and directions of camera rays in a primitive's frame; ``x`` and ``y`` broadcast."""
    origin, axes = camera_frame(primitive, view)
    rows = [(float(a[0]), float(a[1]), float(a[2])) for a in axes]
    return [float(o) for o in origin], [a * x + (b * y + c) for a, b, c in rows]


def cast(scene: Scene, grid: Grid) -> Hits:
    """First hits of a grid of camera rays; every ray meets something, for the room is closed."""
    shape = (len(grid.y), len(grid.x))
    depth = np.full(shape, np.inf, dtype=grid.x.dtype)
    index = np.zeros(shape, dtype=np.int16)
    for i, primitive in enumerate(scene.primitives):
        window = _window(primitive, scene.view, grid)
        if window is None:
            continue
        rows, columns = window
        origin, direction = local_rays(
            primitive, scene.view, grid.x[None, columns], grid.y[rows, None]
        )
        t = intersect(primitive, origin, direction)
        part = depth[rows, columns]
        nearer = t < part
        part[nearer] = t[nearer]
        index[rows, columns][nearer] = i
    return Hits(depth, index)


def _window(primitive: Primitive, view: View, grid: Grid) -> tuple[slice, slice] | None:
    """Rows and columns of the grid that can see a primitive, or None."""
    if primitive.shape == "plane":
        return slice(None), slice(None)
    corners = box_corners(primitive, view)
    if (corners[2] < NEAR_M).all():
        return None
    if (corners[2] < NEAR_M).any():
        return slice(None), slice(None)
    x, y = corners[0] / corners[2], corners[1] / corners[2]
    columns = _range(grid.x, float(x.min()), float(x.max()))
    rows = _range(grid.y, float(y.min()), float(y.max()))
    if columns.start >= columns.stop or rows.start >= rows.stop:
        return None
    return rows, columns


def _range(values: np.ndarray, low: float, high: float) -> slice:
    # a margin for single precision
    first = np.searchsorted(values, low - 1e-5)
    return slice(int(first), int(np.searchsorted(values, high + 1e-5)))


_SIGNS = np.array([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)], dtype=np.float64).T * 2 - 1


def box_corners(primitive: Primitive, view: View) -> np.ndarray:
    """Corners of the box around a primitive in camera axes, ``(3, 8)``."""
    half = primitive.half_extents()
    axes = compose(view.rotation.T, primitive.rotation)
    centre = rotate(view.rotation.T, primitive.centre - view.position)
    offset = sum(axes[:, i, None] * (half[i] * _SIGNS[i]) for i in range(3))
    return centre[:, None] + offset


def occluded(
    scene: Scene,
    origins: np.ndarray,
    which: np.ndarray,
    points: np.ndarray,
    *,
    to_eye: bool = False,
) -> np.ndarray:
    """Where something stands between a point and its origin.

    Args:
        scene: the solids; planes of the room and window panes do not count.
        origins: a few positions, ``(3, k)``.
        which: index of the origin of every point.
        points: world positions, ``(3, p)``; the last thousandth of the way is ignored.
        to_eye: lamps' shades count too: they hide, though they throw no shadow.
    """
    blocked = np.zeros(points.shape[1], dtype=bool)
    middle = (origins.min(axis=1) + origins.max(axis=1)) / 2
    spread = max(length(column) for column in (origins - middle[:, None]).T)
    origins = origins.astype(points.dtype)
    from_middle = points - middle[:, None].astype(points.dtype)
    squared = from_middle[0] ** 2 + from_middle[1] ** 2 + from_middle[2] ** 2
    for group in _groups(scene, to_eye):
        near = np.flatnonzero(_behind_ball(group, middle, spread, from_middle, squared) & ~blocked)
        if len(near) == 0:
            continue
        source = which[near]
        parts = [points[i, near] - origins[i, source] for i in range(3)]
        hit = np.zeros(len(near), dtype=bool)
        for primitive in group.primitives:
            inverse = primitive.rotation.T
            local = rotate_rows(inverse, origins - primitive.centre[:, None].astype(points.dtype))
            direction = rotate_rows(inverse, parts)
            hit |= intersect(primitive, [row[source] for row in local], direction) < 0.999
        blocked[near] = hit
    return blocked


def rotate_rows(matrix: np.ndarray, rows: np.ndarray | list[np.ndarray]) -> list[np.ndarray]:
    """Matrix times ``(3, p)`` by explicit sums."""
    m = [[float(v) for v in row] for row in matrix]
    return [r[0] * rows[0] + r[1] * rows[1] + r[2] * rows[2] for r in m]


@dataclass(frozen=True)
class _Group:
    primitives: list[Primitive]
    centre: np.ndarray
    radius: float


def _groups(scene: Scene, to_eye: bool) -> list[_Group]:
    """The solids of each thing that stop light, in a ball around them."""
    groups = []
    for thing in scene.things:
        solids = [
            p
            for p in scene.primitives[thing.first : thing.first + thing.count]
            if (p.casts_shadow or (to_eye and not p.sky)) and p.shape != "plane"
        ]
        if not solids:
            continue
        low = np.min([p.centre - _reach(p) for p in solids], axis=0)
        high = np.max([p.centre + _reach(p) for p in solids], axis=0)
        centre = (low + high) / 2
        radius = max(length(p.centre - centre) + length(np.array(p.half_extents())) for p in solids)
        groups.append(_Group(solids, centre, min(radius, length(high - centre))))
    return groups


def _reach(primitive: Primitive) -> np.ndarray:
    """Half the size of the world's box around a primitive."""
    half = primitive.half_extents()
    turn = np.abs(primitive.rotation)
    return turn[:, 0] * half[0] + turn[:, 1] * half[1] + turn[:, 2] * half[2]


def _behind_ball(
    group: _Group, middle: np.ndarray, spread: float, way: np.ndarray, way_squared: np.ndarray
) -> np.ndarray:
    """Where a point may lie in the shadow of the ball around a group.

    The shadow is a cone behind the ball as seen from the middle of the origins; the ball is
    enlarged by their spread, and a little for single precision.
    """
    to = [float(v) for v in group.centre - middle]
    far = length(group.centre - middle)
    radius = (group.radius + spread) * 1.001 + 2e-3
    if far <= radius:
        return np.ones(way.shape[1], dtype=bool)
    along = to[0] * way[0] + to[1] * way[1] + to[2] * way[2]
    inside = along * along >= (far * far - radius * radius) * way_squared
    return inside & (along > 0) & (way_squared >= (far - radius) ** 2)
