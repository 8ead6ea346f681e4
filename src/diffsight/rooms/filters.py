"""Labels that Taskonomy defines as filters of an image or a range image: edges and keypoints."""

import math

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage


def edge_texture(grey: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Return the strength of texture edges in grey levels per pixel, ``h w``.

    That is the gradient magnitude of Canny's detector before thinning, after a Gaussian blur with
    a sigma of 1 pixel.

    Args:
        grey: noise-free image in [0, 1], ``h w``.
    """
    smooth = _blur(grey, 1.0)
    dy, dx = _central_difference(smooth, 0), _central_difference(smooth, 1)
    return np.sqrt(dx * dx + dy * dy)


def _blur(values: np.ndarray, sigma_px: float) -> np.ndarray:
    """Return the values after a Gaussian blur, cut at three sigma, with replicated borders."""
    reach = int(3 * sigma_px + 0.5)
    # rounded: the last bits of the exponential differ between libraries
    bell = [round(math.exp(-0.5 * (i / sigma_px) ** 2), 12) for i in range(-reach, reach + 1)]
    weights = np.array(bell) / math.fsum(bell)
    for axis in (0, 1):
        values = ndimage.correlate1d(values, weights, axis, mode="nearest")
    return values


def _central_difference(values: np.ndarray, axis: int) -> np.ndarray:
    """Return central differences along an axis, with replicated borders."""
    pad = [(0, 0)] * values.ndim
    pad[axis] = (1, 1)
    wide = np.pad(values, pad, mode="edge")
    length = values.shape[axis]
    ahead = np.take(wide, np.arange(2, length + 2), axis)
    return (ahead - np.take(wide, np.arange(length), axis)) / 2


def keypoints2d(grey: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Return the response to blobs and corners, 0 or more, ``h w``.

    That is the largest ``sigma^4 det(Hessian)`` over ten scales sigma = 1.25^k pixels, 1 to 7.5.

    Args:
        grey: noise-free image in [0, 1], ``h w``.
    """
    best = np.zeros_like(grey)
    smooth, reached = grey, 0.0
    for step in range(10):
        sigma = 1.25**step
        # the image is blurred already, and the variances of two blurs add up
        blur = (sigma * sigma - reached * reached) ** 0.5
        smooth = _blur(smooth, blur)
        reached = sigma
        dx, dy = _central_difference(smooth, 1), _central_difference(smooth, 0)
        determinant = _central_difference(dx, 1) * _central_difference(dy, 0) - _central_difference(
            dx, 0
        ) * _central_difference(dy, 1)
        best = np.maximum(best, determinant * sigma**4)
    return best


def edge_occlusion(
    points: Float[np.ndarray, "3 h w"],
    normals: Float[np.ndarray, "3 h w"],
    solid: Bool[np.ndarray, "h w"],
) -> Float[np.ndarray, "h w"]:
    """Return the strength of occlusion edges, 0 to 1, ``h w``.

    The gap between two neighbouring pixels is measured along z, from the point of one to the
    tangent plane of the other, and vice versa; it is the smaller of the two distances. The gap is
    zero on planes and at creases, and nearly zero on curved surfaces. At a contour it equals the
    step in depth. The strength is the largest gap to the four neighbours, divided by the nearer
    depth. It is 1 next to a pixel without depth (sky seen through a window).

    Args:
        points: camera coordinates in metres, ``3 h w``.
        normals: unit normals in camera axes, ``3 h w``.
        solid: True where a pixel has a depth, False where it shows the sky, ``h w``.
    """
    result = np.zeros(solid.shape)
    ray = points / points[2]
    offset = _dot(normals, points)
    for axis in (0, 1):
        a = (slice(None),) * axis + (slice(None, -1),)
        b = (slice(None),) * axis + (slice(1, None),)
        gap = _relative_gap(points, normals, ray, offset, a, b)
        gap = np.where(solid[a] & solid[b], gap, np.where(solid[a] | solid[b], 1.0, 0.0))
        result[a] = np.maximum(result[a], gap)
        result[b] = np.maximum(result[b], gap)
    return result


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the dot product along the first axis, summed in a fixed order."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _relative_gap(
    points: np.ndarray, normals: np.ndarray, ray: np.ndarray, offset: np.ndarray, a: tuple, b: tuple
) -> np.ndarray:
    """Return the gap between neighbouring pixels, divided by the nearer depth, 0 to 1.

    Args:
        points: camera coordinates in metres, ``3 h w``.
        normals: unit normals in camera axes, ``3 h w``.
        ray: direction of each pixel with z = 1, ``3 h w``.
        offset: dot product of normal and point, ``h w``.
        a: index of the first pixel of each pair.
        b: index of the second pixel of each pair.
    """
    every = (slice(None),)
    za, zb = points[2][a], points[2][b]
    with np.errstate(divide="ignore", invalid="ignore"):
        # depth at which the ray of one pixel meets the tangent plane of the other
        za_from_b = offset[b] / _dot(normals[every + b], ray[every + a])
        zb_from_a = offset[a] / _dot(normals[every + a], ray[every + b])
    gap = np.fmin(np.abs(za_from_b - za), np.abs(zb_from_a - zb))
    return np.minimum(gap / np.minimum(za, zb), 1.0)


NARF_SUPPORT_M = 0.4  # diameter of the neighbourhood of a point
NARF_GRID_PX = 96
_BORDER = 0.03  # strength of an occlusion edge that marks the border of an object
_RINGS = 5
_SPOKES = 12  # samples on each ring


def keypoints3d(
    points: Float[np.ndarray, "3 h w"],
    normals: Float[np.ndarray, "3 h w"],
    occlusion: Float[np.ndarray, "h w"],
    solid: Bool[np.ndarray, "h w"],
    focal_px: float,
) -> Float[np.ndarray, "h w"]:
    """Return the NARF interest of a range image, 0 to 1, ``h w`` (Steder et al., 2011, IV).

    It is high near corners and the ends of edges: the surface is stable at the point itself, but
    its shape changes in two directions within a neighbourhood of 0.4 m in diameter. It is computed
    on a grid of at most 96 pixels per side, with samples on five rings, and then interpolated.

    Args:
        points: camera coordinates in metres, ``3 h w``.
        normals: unit normals in camera axes, ``3 h w``.
        occlusion: strength of occlusion edges, ``h w``.
        solid: True where a pixel has a depth, False where it shows the sky, ``h w``.
        focal_px: focal length in pixels.
    """
    step = -(-max(solid.shape) // NARF_GRID_PX)
    rows, columns = (slice(step // 2, None, step), slice(step // 2, None, step))
    coarse = (slice(None), rows, columns)
    weight, double_angle = _measure_surface_change(
        points[coarse], normals[coarse], occlusion[rows, columns], solid[rows, columns]
    )
    score = _score_interest(points[coarse], weight, double_angle, focal_px / step)
    return _enlarge(score, solid.shape, step)


def _measure_surface_change(
    points: np.ndarray, normals: np.ndarray, occlusion: np.ndarray, solid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how strongly the surface changes and in which direction, ``h w`` and ``2 h w``.

    The strength is in [0, 1]. The direction is the unit vector of twice its angle, so that opposite
    directions are equal.
    """
    gradients = [(_central_difference(n, 1), _central_difference(n, 0)) for n in normals]
    depth = points[2]
    # the border of an object is the nearer side of a contour
    border = (occlusion > _BORDER) & (depth <= ndimage.minimum_filter(depth, 3) * 1.02)
    zx, zy = _central_difference(depth, 1), _central_difference(depth, 0)
    size = np.maximum(np.sqrt(zx * zx + zy * zy), 1e-9)
    gradients.append((np.where(border, zx / size, 0), np.where(border, zy / size, 0)))
    xx, yy, xy = (
        _blur(np.sum([g[i] * g[j] for g in gradients], axis=0), 0.7)
        for i, j in ((0, 0), (1, 1), (0, 1))
    )
    spread = np.sqrt((xx - yy) ** 2 + 4 * xy * xy)
    largest = np.sqrt(np.minimum((xx + yy + spread) / 2, 1))
    rest = 1 - largest
    weight = np.where(solid, 1 - rest * rest * rest, 0)
    return weight, np.stack([xx - yy, 2 * xy]) / np.maximum(spread, 1e-9)


def _score_interest(
    points: np.ndarray, weight: np.ndarray, double_angle: np.ndarray, focal_px: float
) -> np.ndarray:
    """Return the stability of each point times the change in two directions around it, ``h w``.

    Args:
        points: camera coordinates in metres, ``3 h w``.
        weight: strength of the surface change, ``h w``.
        double_angle: its direction as the unit vector of twice its angle, ``2 h w``.
        focal_px: focal length in pixels of this grid.
    """
    height, width = weight.shape
    row, column = np.mgrid[:height, :width]
    reach_px = focal_px * NARF_SUPPORT_M / 2 / np.maximum(points[2], 0.1)
    flat = points.reshape(3, -1)
    directions = np.stack([double_angle[0], double_angle[1], -double_angle[0], -double_angle[1]])
    by_direction = (weight * np.maximum(directions, 0) ** 2).reshape(4, -1)
    stable = 1 - weight
    strength = np.zeros((4, height, width))
    for ring in range(1, _RINGS + 1):
        for spoke in range(_SPOKES):
            angle = 2 * math.pi * (spoke + ring / 2) / _SPOKES
            far = reach_px * (ring / _RINGS)
            y = np.clip(np.rint(row + far * math.sin(angle)), 0, height - 1).astype(np.int64)
            x = np.clip(np.rint(column + far * math.cos(angle)), 0, width - 1).astype(np.int64)
            at = y * width + x
            difference = flat[:, at] - points
            distance = np.sqrt(_dot(difference, difference)) / NARF_SUPPORT_M
            near = np.maximum(1 - 10 * distance, 0)
            stable = np.minimum(stable, 1 - weight.ravel()[at] * near)
            fit = np.where(distance <= 0.5, 1 - np.abs(2 * distance - 0.5), 0)
            strength = np.maximum(strength, by_direction[:, at] * fit)
    strength = np.sqrt(strength)
    # directions 45 degrees apart have weight 1 - cos 45, directions 90 degrees apart weight 1
    square = np.maximum(strength[0] * strength[2], strength[1] * strength[3])
    oblique = np.maximum(strength[0], strength[2]) * np.maximum(strength[1], strength[3])
    return stable * np.maximum(square, oblique * (1 - 0.5**0.5))


def _enlarge(values: np.ndarray, shape: tuple[int, int], step: int) -> np.ndarray:
    """Return values of all pixels, interpolated from those of pixels ``step // 2 + k * step``."""
    for axis in (0, 1):
        position = np.clip((np.arange(shape[axis]) - step // 2) / step, 0, values.shape[axis] - 1)
        low = np.floor(position).astype(np.int64)
        high = np.minimum(low + 1, values.shape[axis] - 1)
        weight = (position - low).reshape((-1, 1) if axis == 0 else (1, -1))
        values = np.take(values, low, axis) * (1 - weight) + np.take(values, high, axis) * weight
    return values
