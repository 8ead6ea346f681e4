"""First hits of camera rays, and shadows: which primitive, how far.

Camera rays have direction ``(x, y, 1)`` in camera axes, so that ``t`` is the z-depth in metres. In
the frame of a primitive each component of the direction is a number per column plus a number per
row, and a primitive is only tried inside the rectangle that the box around it covers.
"""

from dataclasses import dataclass

import numpy as np

from diffsight.rooms.primitives import intersect
from diffsight.rooms.world import Scene, View, length


@dataclass(frozen=True)
class Grid:
    """Image-plane coordinates of rays: one number per column and one per row, at depth 1."""

    x: np.ndarray
    y: np.ndarray

    @classmethod
    def of_image(
        cls, view: View, height: int, width: int, per_pixel: int = 1, dtype: type = np.float64
    ) -> "Grid":
        """Return rays through pixel centres, or through a grid in each pixel."""
        focal = view.focal_px(height, width)
        columns = (np.arange(width * per_pixel) + 0.5) / per_pixel - width / 2
        rows = (np.arange(height * per_pixel) + 0.5) / per_pixel - height / 2
        return cls((columns / focal).astype(dtype), (rows / focal).astype(dtype))


@dataclass(frozen=True)
class Hits:
    """What camera rays meet first: z-depth in metres and index of the primitive, ``h w`` each."""

    depth_m: np.ndarray
    primitive: np.ndarray


def local_rays(
    scene: Scene, index: int, x: np.ndarray, y: np.ndarray
) -> tuple[list[float], list[np.ndarray]]:
    """Return origin and directions of camera rays in a primitive's frame."""
    origin = scene.frames.position[index].tolist()
    return origin, [a * x + (b * y + c) for a, b, c in scene.frames.axes[index].tolist()]


def cast(scene: Scene, grid: Grid) -> Hits:
    """Return the first hits of camera rays; every ray meets something, the room is closed."""
    shape = (len(grid.y), len(grid.x))
    depth = np.full(shape, np.inf, dtype=grid.x.dtype)
    index = np.zeros(shape, dtype=np.int16)
    bounds = scene.frames.bounds
    # a margin for single precision
    left, right = (np.searchsorted(grid.x, bounds[:, i] + e) for i, e in ((0, -1e-5), (1, 1e-5)))
    top, bottom = (np.searchsorted(grid.y, bounds[:, i] + e) for i, e in ((2, -1e-5), (3, 1e-5)))
    for i in np.flatnonzero((left < right) & (top < bottom)).tolist():
        window = slice(top[i], bottom[i]), slice(left[i], right[i])
        x, y = grid.x[None, window[1]], grid.y[window[0], None]
        t = intersect(scene.primitives[i], *local_rays(scene, i, x, y))
        nearer = t < depth[window]
        np.copyto(depth[window], t, where=nearer)
        np.copyto(index[window], i, where=nearer)
    return Hits(depth, index)


def occluded(
    scene: Scene,
    origins: np.ndarray,
    which: np.ndarray,
    points: np.ndarray,
    *,
    to_eye: bool = False,
) -> np.ndarray:
    """Return where something stands between a point and its origin.

    Args:
        scene: the solids; planes of the room and window panes do not count.
        origins: a few positions, ``(3, k)``.
        which: index of the origin of every point.
        points: world positions, ``(3, p)``; the last thousandth of the way is ignored.
        to_eye: lamps' shades count too: they hide, though they throw no shadow.
    """
    blocked = np.zeros(points.shape[1], dtype=bool)
    middle = (origins.min(axis=1) + origins.max(axis=1)) / 2
    extent = max(length(column) for column in (origins - middle[:, None]).T)
    origins = origins.astype(points.dtype)
    from_middle = points - middle[:, None].astype(points.dtype)
    squared = from_middle[0] ** 2 + from_middle[1] ** 2 + from_middle[2] ** 2
    for thing, (centre, radius) in zip(scene.things, scene.balls, strict=True):
        if radius == 0:
            continue
        ball = (centre - middle, radius + extent)
        near = np.flatnonzero(_behind_ball(*ball, from_middle, squared) & ~blocked)
        if len(near) == 0:
            continue
        source = which[near]
        parts = [points[i, near] - origins[i, source] for i in range(3)]
        hit = np.zeros(len(near), dtype=bool)
        for primitive in scene.primitives[thing.first : thing.first + thing.count]:
            if primitive.sky or not (primitive.casts_shadow or to_eye):
                continue
            inverse = primitive.rotation.T
            local = rotate_rows(inverse, origins - primitive.centre[:, None].astype(points.dtype))
            direction = rotate_rows(inverse, parts)
            hit |= intersect(primitive, [row[source] for row in local], direction) < 0.999
        blocked[near] = hit
    return blocked


def rotate_rows(matrix: np.ndarray, rows: np.ndarray | list[np.ndarray]) -> list[np.ndarray]:
    """Return matrix times ``(3, p)`` by explicit sums."""
    x, y, z = rows
    return [a * x + b * y + c * z for a, b, c in matrix.tolist()]


def _behind_ball(
    to_ball: np.ndarray, radius: float, way: np.ndarray, way_squared: np.ndarray
) -> np.ndarray:
    """Return where a point may lie in a ball's shadow: a cone behind it.

    The ball is enlarged a little for single precision.
    """
    far = length(to_ball)
    radius = radius * 1.001 + 2e-3
    if far <= radius:
        return np.ones(way.shape[1], dtype=bool)
    to = to_ball.tolist()
    along = to[0] * way[0] + to[1] * way[1] + to[2] * way[2]
    inside = along * along >= (far * far - radius * radius) * way_squared
    return inside & (along > 0) & (way_squared >= (far - radius) ** 2)
