"""Upright boxes, and the first box that each ray hits."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

SKY, GROUND = -2, -1  # values of ``Hits.solid`` for rays that hit no box
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Solid:
    """An upright box.

    Attributes:
        x_m: x of its centre in the frame of the vehicle, in metres.
        y_m: y of its centre, in metres.
        heading: angle from the x axis to its long side in radians, counter-clockwise.
        half_m: half its length and half its width, in metres.
        z_m: heights of its bottom and top, in metres.
        colour: RGB in [0, 1].
    """

    x_m: float
    y_m: float
    heading: float
    half_m: tuple[float, float]
    z_m: tuple[float, float]
    colour: Colour

    @cached_property
    def reach_m(self) -> float:
        """Radius in metres of the smallest circle around its footprint."""
        return math.hypot(*self.half_m)

    def local(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the components of vectors along the length and the width of the box."""
        c, s = math.cos(self.heading), math.sin(self.heading)
        return c * x + s * y, c * y - s * x

    def footprint(self, count: int) -> Float[np.ndarray, "n 2"]:
        """Return a grid of ``count`` x ``count`` points on the ground below it, in metres."""
        steps = np.linspace(-1, 1, count)
        u, v = (one.ravel() for one in np.meshgrid(*(half * steps for half in self.half_m)))
        c, s = math.cos(self.heading), math.sin(self.heading)
        return np.stack([self.x_m + c * u - s * v, self.y_m + s * u + c * v], axis=1)

    def covers(self, points: Float[np.ndarray, "n 2"], margin_m: float) -> Bool[np.ndarray, " n"]:
        """Return a mask of the points on the ground that lie below it or within a margin of it."""
        u, v = self.local(points[:, 0] - self.x_m, points[:, 1] - self.y_m)
        return (np.abs(u) <= self.half_m[0] + margin_m) & (np.abs(v) <= self.half_m[1] + margin_m)


@dataclass(frozen=True)
class Hits:
    """The first hits of rays.

    Attributes:
        distance: distance in multiples of the length of the ray's direction; infinite in the sky.
        solid: index of the box, ``GROUND`` or ``SKY``.
    """

    distance: Float[np.ndarray, "h w"]
    solid: Int[np.ndarray, "h w"]

    def points(
        self, origin: Float[np.ndarray, " 3"], rays: Float[np.ndarray, "3 h w"], mask: np.ndarray
    ) -> Float[np.ndarray, "3 n"]:
        """Return the positions of the hits that ``mask``, ``h w``, selects."""
        return origin.astype(rays.dtype)[:, None] + rays[:, mask] * self.distance[mask]


def cast(
    solids: Sequence[Solid], origin: Float[np.ndarray, " 3"], rays: Float[np.ndarray, "3 h w"]
) -> Hits:
    """Return the first hits of rays from one point.

    Args:
        solids: boxes. A box around the origin is invisible.
        origin: origin of all rays in metres, above the ground.
        rays: directions of the rays. The rays of one column must have similar azimuths: boxes far
            from a column's azimuths are not tested.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(rays[2] < 0, -rays.dtype.type(origin[2]) / rays[2], np.inf)
        number = np.where(rays[2] < 0, GROUND, SKY).astype(np.int16)
        for i, window in _find_columns(solids, origin, rays):
            enter = _find_entry(solids[i], origin, rays[:, :, window])
            is_nearer = enter < distance[:, window]
            np.copyto(distance[:, window], enter, where=is_nearer)
            np.copyto(number[:, window], i, where=is_nearer)
    return Hits(distance, number)


def _find_columns(
    solids: Sequence[Solid], origin: np.ndarray, rays: np.ndarray
) -> Iterator[tuple[int, slice]]:
    """Yield the index of every box that rays may hit, with the range of their columns."""
    azimuth = np.arctan2(rays[1], rays[0])
    middle = azimuth[len(azimuth) // 2]
    spread = np.abs(_wrap_angle(azimuth - middle)).max(axis=0)
    rows = [(s.x_m - origin[0], s.y_m - origin[1], s.reach_m) for s in solids]
    x, y, radius = np.array(rows, dtype=np.float32).reshape(-1, 3).T
    ratio = radius / np.hypot(x, y)
    half_angle = np.where(ratio < 1, np.arcsin(np.minimum(ratio, 1)), np.float32(math.pi))
    away = np.abs(_wrap_angle(middle - np.arctan2(y, x)[:, None]))
    # the margin allows for rounding in single precision
    may_hit = away <= spread + (half_angle[:, None] + np.float32(1e-3))
    for i in np.flatnonzero(may_hit.any(axis=1)).tolist():
        columns = np.flatnonzero(may_hit[i])
        yield i, slice(int(columns[0]), int(columns[-1]) + 1)


def _wrap_angle(angle: np.ndarray) -> np.ndarray:
    """Return the same angles, wrapped to [-pi, pi]."""
    return angle - 2 * math.pi * np.round(angle / (2 * math.pi))


def _find_entry(solid: Solid, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Return the distances at which rays enter a box, in multiples of their directions.

    A ray that misses the box gets infinity.
    """
    x, y = np.array(origin[:2] - (solid.x_m, solid.y_m)).reshape(2, 1)
    start = [*(float(one[0]) for one in solid.local(x, y)), float(origin[2])]
    ways = [*solid.local(rays[0], rays[1]), rays[2]]
    limits = [*((-half, half) for half in solid.half_m), solid.z_m]
    first, last = np.float32(0), np.float32(np.inf)
    for begin, way, (low, high) in zip(start, ways, limits, strict=True):
        a, b = (low - begin) / way, (high - begin) / way
        first = np.maximum(first, np.minimum(a, b))
        last = np.minimum(last, np.maximum(a, b))
    return np.where((first < last) & (first > 0), first, np.float32(np.inf))
