"""Windows over an image, and the average of what is computed in them."""

import torch
from jaxtyping import Float
from torch import Tensor

Window = tuple[slice, slice]


def window_starts(long: int, side: int, windows: int, *, covers: bool = True) -> list[int]:
    """Where the windows begin along the longer side, in pixels, ascending and without repetition.

    Window i begins at ``i * ((long - side) // (windows - 1))``; the last one ends at the far edge.
    Where that many windows of ``side`` pixels cannot cover ``long`` pixels, there are as many as it
    takes.

    Differs from the authors' code: VPD, EVP and Meta Prompts floor the step of every window, so
    that up to ``windows - 2`` columns at the far edge are in none (on KITTI 9 columns of NaN with
    EVP's 20 windows, as with Meta Prompts' 16). ``covers=False`` does so too. Where the division is
    exact (NYU 480 x 640 in 2, KITTI 352 x 1216 in 4) the windows are the same.

    Args:
        long: length of the longer side.
        side: length of the shorter side, the side of a window.
        windows: how many, at least 2.
        covers: let the last one end at the far edge; without it, the pixels there are in none.
    """
    if not covers:
        return [i * ((long - side) // (windows - 1)) for i in range(windows)]
    slack = long - side
    stride = min(side, max(1, slack // (windows - 1)))
    count = max(windows - 1, -((side - slack) // stride) + 1)
    return sorted({min(i * stride, slack) for i in range(count)} | {slack})


def windows_of(height: int, width: int, windows: int, *, covers: bool = True) -> list[Window]:
    """The (rows, columns) of every window: one window is the whole image, several are square."""
    if windows == 1:
        return [(slice(0, height), slice(0, width))]
    side = min(height, width)
    starts = window_starts(max(height, width), side, windows, covers=covers)
    if height > width:
        return [(slice(start, start + side), slice(0, width)) for start in starts]
    return [(slice(0, height), slice(start, start + side)) for start in starts]


def tiles_of(height: int, width: int, tile: int, stride: int) -> list[Window]:
    """The (rows, columns) of windows of ``tile`` x ``tile`` px every ``stride`` px, row by row.

    The last of a row or column ends at the edge; where the image is smaller than a window, so is
    the window. The positions are those of mmsegmentation's slide inference.
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


class PassAverage:
    """Mean and spread per pixel over passes that each cover a part of an image.

    The mean equals the authors' (mirrored passes averaged first, then windows by coverage), because
    every window has as many passes as any other. Updated with Welford's rule: nothing but two maps
    is kept.

    Attributes:
        passes: how many were taken in.
    """

    def __init__(self, height: int, width: int) -> None:
        self.passes = 0
        self._size = (height, width)
        self._mean: Tensor | None = None
        self._squares: Tensor | None = None
        self._count: Tensor | None = None

    def add(self, maps: Float[Tensor, "k _ _"], window: Window) -> None:
        """Take in the maps of one pass over ``window``."""
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
        """The average at every pixel; NaN where no pass was."""
        assert self._mean is not None
        assert self._count is not None
        if bool(self._count.all()):
            return self._mean
        return torch.where(self._count > 0, self._mean, torch.nan)

    def std(self) -> Float[Tensor, "k h w"]:
        """The spread (population) per pixel; NaN where fewer than two passes were."""
        assert self._squares is not None
        assert self._count is not None
        spread = (self._squares / self._count).clamp(min=0).sqrt()
        return torch.where(self._count > 1, spread, torch.nan)
