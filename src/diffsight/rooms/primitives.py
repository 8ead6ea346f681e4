"""Exact ray intersections, normals and curvatures of the primitives, in their own frames.

A ray is ``origin + t * direction``; the components are numbers or arrays that broadcast. ``t`` is
infinite where a ray does not hit. Only + - * / and square roots are used, because their results are
the same on every machine to the last bit.
"""

import math
from collections.abc import Sequence

import numpy as np

from diffsight.rooms.world import Primitive, Vector

Components = Sequence[np.ndarray | float]
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def points_on(origin: Components, direction: Components, t: np.ndarray) -> Arrays:
    """Return x, y and z of the points at ``t`` along rays."""
    x, y, z = (np.asarray(o + d * t) for o, d in zip(origin, direction, strict=True))
    return x, y, z


def intersect(primitive: Primitive, origin: Components, direction: Components) -> np.ndarray:
    """Return the smallest positive ``t`` at which the ray enters the solid, or infinity."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if primitive.shape == "plane":
            return _intersect_plane(origin, direction)
        if primitive.shape == "box":
            return _intersect_box(primitive.size, origin, direction)
        if primitive.shape == "ellipsoid":
            return _intersect_ellipsoid(primitive.size, origin, direction)
        if primitive.shape == "capsule":
            return _intersect_capsule(primitive.size, origin, direction)
        return _intersect_frustum(primitive.size, primitive.caps, origin, direction)


def _intersect_plane(o: Components, d: Components) -> np.ndarray:
    t = -o[1] / d[1]
    return np.where((d[1] < 0) & (t > 0), t, np.inf)


def _intersect_box(half: Vector, o: Components, d: Components) -> np.ndarray:
    near, far = -np.inf, np.inf
    for axis in range(3):
        inverse = 1 / d[axis]
        middle = -o[axis] * inverse
        reach = half[axis] * np.abs(inverse)
        near = np.maximum(near, middle - reach)
        far = np.minimum(far, middle + reach)
    return np.where((near < far) & (near > 0), near, np.inf)


def _intersect_ellipsoid(radii: Vector, o: Components, d: Components) -> np.ndarray:
    ox, oy, oz = (o[i] / radii[i] for i in range(3))
    dx, dy, dz = (d[i] / radii[i] for i in range(3))
    return _solve_entry(
        dx * dx + dy * dy + dz * dz,
        ox * dx + oy * dy + oz * dz,
        ox * ox + oy * oy + oz * oz - 1,
    )


def _solve_entry(a: np.ndarray | float, b: np.ndarray | float, c: np.ndarray | float) -> np.ndarray:
    """Return the smaller root of ``a t^2 + 2 b t + c``, or infinity where it is not positive."""
    discriminant = b * b - a * c
    t = (-b - np.sqrt(np.maximum(discriminant, 0))) / a
    return np.where((discriminant > 0) & (t > 0), t, np.inf)


def _intersect_capsule(size: Vector, o: Components, d: Components) -> np.ndarray:
    radius, half, _ = size
    a = d[0] * d[0] + d[2] * d[2]
    b = o[0] * d[0] + o[2] * d[2]
    c = o[0] * o[0] + o[2] * o[2] - radius * radius
    discriminant = b * b - a * c
    t_side = (-b - np.sqrt(np.maximum(discriminant, 0))) / a
    y = o[1] + t_side * d[1]
    # a ray that misses the infinite cylinder misses both balls; the height at which it enters the
    # cylinder decides which ball to test
    oy = o[1] - np.copysign(half, y)
    t_ball = _solve_entry(a + d[1] * d[1], b + oy * d[1], c + oy * oy)
    t = np.where((np.abs(y) <= half) & (t_side > 0), t_side, t_ball)
    return np.where(discriminant > 0, t, np.inf)


def _intersect_frustum(
    size: Vector, caps: tuple[bool, bool], o: Components, d: Components
) -> np.ndarray:
    bottom, top, half = size
    slope = (top - bottom) / (2 * half)
    middle = (top + bottom) / 2 + slope * o[1]
    a = d[0] * d[0] + d[2] * d[2] - slope * slope * d[1] * d[1]
    b = o[0] * d[0] + o[2] * d[2] - slope * middle * d[1]
    c = o[0] * o[0] + o[2] * o[2] - middle * middle
    discriminant = b * b - a * c
    root = np.sqrt(np.maximum(discriminant, 0))
    best = np.inf
    for t in ((-b - root) / a, (-b + root) / a):
        hit = (np.abs(o[1] + t * d[1]) <= half) & (t > 0) & (discriminant > 0)
        best = np.minimum(best, np.where(hit, t, np.inf))
    for closed, y, radius in ((caps[0], -half, bottom), (caps[1], half, top)):
        if closed and radius > 0:
            t = (y - o[1]) / d[1]
            x, z = o[0] + t * d[0], o[2] + t * d[2]
            hit = (x * x + z * z <= radius * radius) & (t > 0)
            best = np.minimum(best, np.where(hit, t, np.inf))
    return np.asarray(best)


def compute_normals(primitive: Primitive, p: Arrays) -> Arrays:
    """Return the components of the outward unit normals at points on the surface."""
    x, y, z = p
    zero = np.zeros_like(x)
    if primitive.shape == "plane":
        return zero, zero + 1, zero
    if primitive.shape == "box":
        return _compute_box_normals(primitive.size, p)
    if primitive.shape == "ellipsoid":
        a, b, c = primitive.size
        return _normalise(x / (a * a), y / (b * b), z / (c * c))
    if primitive.shape == "capsule":
        half = primitive.size[1]
        return _normalise(x, y - np.clip(y, -half, half), z)
    slope, radius, cap = _measure_frustum(primitive, p)
    nx, ny, nz = _normalise(x, -slope * radius, z)
    return np.where(cap, zero, nx), np.where(cap, np.sign(y), ny), np.where(cap, zero, nz)


def _normalise(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Arrays:
    length = np.sqrt(x * x + y * y + z * z)
    length = np.maximum(length, 1e-12)
    return x / length, y / length, z / length


def find_box_faces(half: Vector, p: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Return masks of the points of a box whose nearest face is normal to x, and normal to y."""
    gx, gy, gz = (np.abs(p[i]) - half[i] for i in range(3))
    on_x = (gx >= gy) & (gx >= gz)
    return on_x, ~on_x & (gy >= gz)


def _compute_box_normals(half: Vector, p: Arrays) -> Arrays:
    on_x, on_y = find_box_faces(half, p)
    zero = np.zeros_like(p[0])
    return (
        np.where(on_x, np.sign(p[0]), zero),
        np.where(on_y, np.sign(p[1]), zero),
        np.where(on_x | on_y, zero, np.sign(p[2])),
    )


def _measure_frustum(primitive: Primitive, p: Arrays) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the slope of the side, the radius at each point, and a mask of the closed ends."""
    bottom, top, half = primitive.size
    slope = (top - bottom) / (2 * half)
    radius = np.maximum((top + bottom) / 2 + slope * p[1], 1e-9)
    off_side = np.abs(np.sqrt(p[0] * p[0] + p[2] * p[2]) - radius)
    off_cap = np.abs(np.abs(p[1]) - half)
    closed = np.where(p[1] < 0, primitive.caps[0], primitive.caps[1])
    return slope, radius, closed & (off_cap < off_side)


def compute_curvatures(primitive: Primitive, p: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Return the principal curvatures in 1/m, the larger first; convex is positive."""
    zero = np.zeros_like(p[0])
    if primitive.shape in ("plane", "box"):
        return zero, zero
    if primitive.shape == "capsule":
        k = zero + 1 / primitive.size[0]
        return k, np.where(np.abs(p[1]) > primitive.size[1], k, zero)
    if primitive.shape == "frustum":
        slope, radius, cap = _measure_frustum(primitive, p)
        return np.where(cap, zero, 1 / (radius * math.sqrt(1 + slope * slope))), zero
    return _compute_ellipsoid_curvatures(primitive.size, p)


def _compute_ellipsoid_curvatures(radii: Vector, p: Arrays) -> tuple[np.ndarray, np.ndarray]:
    a2, b2, c2 = (r * r for r in radii)
    if a2 == b2 == c2:
        k = np.full_like(p[0], 1 / radii[0])
        return k, k
    x2, y2, z2 = (q * q for q in p)
    # h is the distance from the centre to the tangent plane
    h2 = 1 / (x2 / (a2 * a2) + y2 / (b2 * b2) + z2 / (c2 * c2))
    gauss = h2 * h2 / (a2 * b2 * c2)
    mean = h2 * np.sqrt(h2) * (a2 + b2 + c2 - x2 - y2 - z2) / (2 * a2 * b2 * c2)
    half_gap = np.sqrt(np.maximum(mean * mean - gauss, 0))
    return mean + half_gap, mean - half_gap


def compute_texture_coordinates(primitive: Primitive, p: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Return two coordinates along the surface in metres, for patterns."""
    x, y, z = p
    if primitive.shape == "plane":
        return x, z
    if primitive.shape == "box":
        on_x, on_y = find_box_faces(primitive.size, p)
        return np.where(on_x, z, x), np.where(on_y, z, y)
    # the "diamond angle" grows around the axis as an angle does, but needs no arctangent
    reach = np.maximum(np.abs(x) + np.abs(z), 1e-9)
    around = np.where(z >= 0, 1 - x / reach, 3 + x / reach)
    radius = max(primitive.half_extents()[0], primitive.half_extents()[2])
    u = around * (radius * 1.5707963)
    if primitive.shape != "frustum":
        return u, y
    cap = _measure_frustum(primitive, p)[2]
    return np.where(cap, x, u), np.where(cap, z, y)
