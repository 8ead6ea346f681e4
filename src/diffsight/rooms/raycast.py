"""Find the primitive that each camera ray hits first, and the points that lie in shadow.

Camera rays have direction ``(x, y, 1)`` in camera axes, so that ``t`` is the depth along the
optical axis in metres. In the frame of a primitive, each component of the direction is a number per
column plus a number per row. A primitive is only tested inside the image rectangle of its bounding
box.
"""

from dataclasses import dataclass

import numpy as np

from diffsight.rooms.primitives import intersect
from diffsight.rooms.world import Scene, View, length


@dataclass(frozen=True)
class Grid:
    """Image-plane coordinates of a grid of rays at depth 1: ``x`` per column, ``y`` per row."""

    x: np.ndarray
    y: np.ndarray

    @classmethod
    def of_image(
        cls, view: View, height: int, width: int, per_pixel: int = 1, dtype: type = np.float64
    ) -> "Grid":
        """Return the rays through a grid of ``per_pixel`` x ``per_pixel`` points in each pixel."""
        focal = view.focal_px(height, width)
        columns = (np.arange(width * per_pixel) + 0.5) / per_pixel - width / 2
        rows = (np.arange(height * per_pixel) + 0.5) / per_pixel - height / 2
        return cls((columns / focal).astype(dtype), (rows / focal).astype(dtype))


@dataclass(frozen=True)
class Hits:
    """First hits of camera rays: depth in metres and index of the primitive, ``h w`` each."""

    depth_m: np.ndarray
    primitive: np.ndarray


def local_rays(
    scene: Scene, index: int, x: np.ndarray, y: np.ndarray
) -> tuple[list[float], list[np.ndarray]]:
    """Return the origin and the directions of camera rays in the frame of a primitive.

    Args:
        scene: the scene.
        index: index of the primitive.
        x: image-plane coordinates of the rays at depth 1.
        y: the same for y; broadcasts with ``x``.
    """
    origin = scene.frames.position[index].tolist()
    return origin, [a * x + (b * y + c) for a, b, c in scene.frames.axes[index].tolist()]


def cast(scene: Scene, grid: Grid) -> Hits:
    """Return the first hits of camera rays. The room is closed, so every ray hits a primitive."""
    shape = (len(grid.y), len(grid.x))
    depth = np.full(shape, np.inf, dtype=grid.x.dtype)
    index = np.zeros(shape, dtype=np.int16)
    bounds = scene.frames.bounds
    # the margin allows for rounding in single precision
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
    origin_index: np.ndarray,
    points: np.ndarray,
    *,
    to_eye: bool = False,
) -> np.ndarray:
    """Return a mask ``(p,)`` of the points with a solid between them and their origin.

    Args:
        scene: the scene. The planes of the room and window panes are ignored.
        origins: world positions of lamps or of the camera, ``(3, k)``.
        origin_index: index of the origin of every point, ``(p,)``.
        points: world positions, ``(3, p)``. The last thousandth of the way to them is ignored.
        to_eye: True if the origin is the camera. Lamp shades then hide points, although they throw
            no shadow.
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
        near = np.flatnonzero(_is_behind_ball(*ball, from_middle, squared) & ~blocked)
        if len(near) == 0:
            continue
        source = origin_index[near]
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
    """Return the product of a matrix and vectors ``(3, p)``, with explicit sums."""
    x, y, z = rows
    return [a * x + b * y + c * z for a, b, c in matrix.tolist()]


def _is_behind_ball(
    to_ball: np.ndarray, radius: float, way: np.ndarray, way_squared: np.ndarray
) -> np.ndarray:
    """Return a mask of the points that may lie in the shadow of a ball: a cone behind it.

    The ball is enlarged a little to allow for rounding in single precision.

    Args:
        to_ball: vector from the origin of the rays to the centre of the ball, in metres.
        radius: radius of the ball in metres.
        way: vectors from this origin to the points, ``(3, p)``.
        way_squared: their squared lengths, ``p``.
    """
    far = length(to_ball)
    radius = radius * 1.001 + 2e-3
    if far <= radius:
        return np.ones(way.shape[1], dtype=bool)
    to = to_ball.tolist()
    along = to[0] * way[0] + to[1] * way[1] + to[2] * way[2]
    inside = along * along >= (far * far - radius * radius) * way_squared
    return inside & (along > 0) & (way_squared >= (far - radius) ** 2)
