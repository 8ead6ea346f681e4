"""Encode joints as heatmaps and decode them again, without a bias from rounding.

Encoding follows unbiased data processing (Huang et al., CVPR 2020): the centre of the Gaussian is
not rounded to a pixel. Decoding is distribution-aware (Zhang et al., CVPR 2020): a second-order
Taylor expansion of the logarithm of the smoothed map gives the peak at subpixel precision.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

MIN_HEIGHT = 1e-3  # smaller values of a heatmap are raised to this before the logarithm
REACH = 3  # radius of a Gaussian in standard deviations


def encode(
    points: Float[Tensor, "b j 2"], hw: tuple[int, int], sigma_px: float
) -> tuple[Float[Tensor, "b j h w"], Bool[Tensor, "b j"]]:
    """Return a Gaussian of height 1 for every joint, and whether it overlaps the map.

    Args:
        points: x and y of the joints, in pixels of the map.
        hw: height and width of the map.
        sigma_px: standard deviation of the Gaussians, in pixels of the map.
    """
    sides = (hw[1], hw[0])
    x, y = (
        torch.exp(-(torch.arange(side).to(points) - centre[..., None]).square() / 2 / sigma_px**2)
        for side, centre in zip(sides, points.unbind(dim=-1), strict=True)
    )
    reach, last = REACH * sigma_px, points.new_tensor(sides) - 1
    is_inside = ((points > -reach) & (points < last + reach)).all(dim=-1)
    return y[..., :, None] * x[..., None, :], is_inside


def decode(
    maps: Float[Tensor, "b j h w"], sigma_px: float
) -> tuple[Float[Tensor, "b j 2"], Float[Tensor, "b j"]]:
    """Return x and y of the peaks in pixels of the maps, and the heights of the peaks.

    Args:
        maps: one heatmap per joint.
        sigma_px: standard deviation of the Gaussians in pixels; the maps are smoothed with it too.
    """
    width = maps.shape[-1]
    scores, index = maps.flatten(2).max(dim=-1)
    rows, columns = index // width, index % width
    logs = smooth(maps, sigma_px).clamp(min=MIN_HEIGHT).log()
    padded = functional.pad(logs, (1, 1, 1, 1), mode="replicate").flatten(2)

    def at(dy: int, dx: int) -> Float[Tensor, "b j"]:
        position = (rows + 1 + dy) * (width + 2) + columns + 1 + dx
        return padded.gather(2, position[..., None])[..., 0]

    middle = at(0, 0)
    gx, gy = (at(0, 1) - at(0, -1)) / 2, (at(1, 0) - at(-1, 0)) / 2
    xx, yy = at(0, 1) - 2 * middle + at(0, -1), at(1, 0) - 2 * middle + at(-1, 0)
    xy = (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / 4
    determinant = xx * yy - xy * xy
    is_peak = (determinant > 0) & (xx < 0)
    safe = torch.where(is_peak, determinant, 1)
    dx, dy = (xy * gy - yy * gx) / safe, (xy * gx - xx * gy) / safe
    # the expansion of a flat or noisy map can lie far from the peak: limit the offset to a pixel
    offsets = torch.stack([dx, dy], dim=-1).clamp(-1, 1) * is_peak[..., None]
    return torch.stack([columns, rows], dim=-1) + offsets, scores


def smooth(maps: Float[Tensor, "b j h w"], sigma_px: float) -> Float[Tensor, "b j h w"]:
    """Return the maps after a Gaussian filter with zero padding.

    Args:
        maps: one heatmap per joint.
        sigma_px: standard deviation of the filter in pixels.
    """
    radius = max(1, math.ceil(REACH * sigma_px))
    offsets = torch.arange(-radius, radius + 1).to(maps)
    kernel = torch.exp(-offsets.square() / 2 / sigma_px**2)
    kernel = kernel / kernel.sum()
    rows = maps.flatten(0, 1)[:, None]
    rows = functional.conv2d(rows, kernel[None, None, :, None], padding=(radius, 0))
    rows = functional.conv2d(rows, kernel[None, None, None, :], padding=(0, radius))
    return rows.view_as(maps)
