"""Split an image into windows, and average the maps that are computed in the windows."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.errors import InputError

Window = tuple[slice, slice]
"""Rows and columns of a part of an image."""


def window_starts(long: int, side: int, windows: int, *, covers: bool = True) -> list[int]:
    """Return the first pixel of every square window along the longer side, in ascending order.

    Window i begins at ``i * ((long - side) // (windows - 1))``; the last one ends at the far edge.
    If this number of windows cannot cover ``long`` pixels, there are as many windows as necessary.

    Differs from the authors' code: VPD, EVP and Meta Prompts round down the step between windows,
    so that up to ``windows - 2`` columns at the far edge are in no window (on KITTI 9 columns of
    NaN with EVP's 20 windows, and with Meta Prompts' 16). ``covers=False`` does the same. Both
    variants agree if the division is exact (NYU 480 x 640 in 2 windows, KITTI 352 x 1216 in 4).

    Args:
        long: length of the longer side in pixels.
        side: length of the shorter side, and side of a window, in pixels.
        windows: number of windows, at least 2.
        covers: let the last window end at the far edge; False leaves out the pixels there.
    """
    if not covers:
        return [i * ((long - side) // (windows - 1)) for i in range(windows)]
    slack = long - side
    stride = min(side, max(1, slack // (windows - 1)))
    count = max(windows - 1, -((side - slack) // stride) + 1)
    return sorted({min(i * stride, slack) for i in range(count)} | {slack})


def make_windows(height: int, width: int, windows: int, *, covers: bool = True) -> list[Window]:
    """Return rows and columns of every window: one window is the image, several are square.

    Args:
        height: height of the image in pixels.
        width: width of the image in pixels.
        windows: number of windows along the longer side.
        covers: as for ``window_starts``.
    """
    if windows == 1:
        return [(slice(0, height), slice(0, width))]
    side = min(height, width)
    starts = window_starts(max(height, width), side, windows, covers=covers)
    if height > width:
        return [(slice(start, start + side), slice(0, width)) for start in starts]
    return [(slice(0, height), slice(start, start + side)) for start in starts]


def make_tiles(height: int, width: int, tile: int, stride: int) -> list[Window]:
    """Return rows and columns of ``tile`` x ``tile`` px windows every ``stride`` px, row by row.

    The last window of a row or column of windows ends at the edge of the image. A window is never
    larger than the image. The windows are those of mmsegmentation's slide inference.
    """
    rows, columns = (_tile_starts(long, tile, stride) for long in (height, width))
    return [
        (slice(top, min(top + tile, height)), slice(left, min(left + tile, width)))
        for top in rows
        for left in columns
    ]


def _tile_starts(long: int, tile: int, stride: int) -> list[int]:
    count = -(-max(long - tile, 0) // stride) + 1
    return [max(min(i * stride, long - tile), 0) for i in range(count)]


def require_aligned(windows: Iterable[Window], stride: int) -> None:
    """Refuse windows that do not begin at a pixel of the output, such as of a heatmap.

    Args:
        windows: rows and columns of image pixels.
        stride: image pixels per pixel of the output.

    Raises:
        InputError: if there is such a window.
    """
    if any(side.start % stride for window in windows for side in window):
        raise InputError(
            f"a window begins between two pixels of the output, which are {stride} px wide: "
            f"choose --tile and --stride that are multiples of {stride}, or leave windows out"
        )


class PassAverage:
    """Mean and standard deviation per pixel, over passes that each cover a window of an image.

    The authors' code averages mirrored passes first, and then windows by coverage. The mean is the
    same here, because all windows have the same number of passes. Welford's update stores only two
    maps and the counts.

    Args:
        height: height of the image in pixels.
        width: width of the image in pixels.

    Attributes:
        passes: number of added passes.
    """

    def __init__(self, height: int, width: int) -> None:
        self.passes = 0
        self._size = (height, width)
        self._mean: Tensor | None = None
        self._squares: Tensor | None = None
        self._count: Tensor | None = None

    def add(self, maps: Float[Tensor, "k _ _"], window: Window) -> None:
        """Add the maps of one pass.

        Args:
            maps: maps of the size of the window.
            window: rows and columns of the image that the pass covers.
        """
        maps = maps.float()
        if self._mean is None or self._squares is None or self._count is None:
            self._mean = maps.new_zeros(maps.shape[0], *self._size)
            self._squares = torch.zeros_like(self._mean)
            self._count = maps.new_zeros(self._size)
        self.passes += 1
        rows, columns = window
        count = self._count[rows, columns].add_(1)
        mean = self._mean[:, rows, columns]
        delta = maps - mean
        mean += delta / count
        self._squares[:, rows, columns] += delta * (maps - mean)

    def mean(self) -> Float[Tensor, "k h w"]:
        """Return the mean at every pixel; NaN for pixels without a pass."""
        assert self._mean is not None
        assert self._count is not None
        if bool(self._count.all()):
            return self._mean
        return torch.where(self._count > 0, self._mean, torch.nan)

    def std(self) -> Float[Tensor, "k h w"]:
        """Return the population standard deviation; NaN for pixels with fewer than two passes."""
        assert self._squares is not None
        assert self._count is not None
        deviation = (self._squares / self._count).clamp(min=0).sqrt()
        return torch.where(self._count > 1, deviation, torch.nan)
