"""The plan: how an image is run through a model. It is part of every result.

The command line reads its options here, so torch is imported only where sizes are computed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from diffsight.errors import InputError

if TYPE_CHECKING:
    from diffsight.ops.tiles import Window

ShortSide = int | Literal["training", "own"]
# images beyond this are refused before anything is computed: they would end in a killed process
MAX_PIXELS = 2**26


def short_side_px(short_side: ShortSide, info: Mapping[str, Any]) -> int | None:
    """Return the value of ``Plan.short_side`` for a model.

    Args:
        short_side: pixels, ``own`` for the image's own size, or ``training`` for the size of the
            training images (the own size where that is not known).
        info: of the model (``DenseModel.info``).
    """
    if short_side == "training":
        return info.get("short_side")
    return None if short_side == "own" else short_side


@dataclass(frozen=True)
class Plan:
    """How an image is run.

    Attributes:
        short_side: pixels that the shorter side is resized to before the model sees the image (the
            result is resized back), or None for the image's own size.
        long_side: most pixels that the longer side may have after the resize (default: no limit).
        windows: 1 runs the whole image; 2 or more run square windows along the longer side (more
            where it takes more to cover the image) and average their results.
        tile: side in pixels of square windows over both sides of the image, whose results are
            averaged; needs a stride, and takes the place of windows (default: none).
        stride: pixels from one tile to the next, at most its side (default: none).
        scales: run the image at these multiples of its working size, such as 1,1.25,1.5. From two
            on, logits become probabilities before scales and mirrored passes are averaged, as in
            mmsegmentation.
        flip: run the mirrored image too, and average.
        ensemble_size: passes with different noise that are averaged, for methods that add noise.
        batch_size: windows of one size that run together; it changes the speed, never the result.
        steps: of a method that refines its output step by step, such as DDP (default: the model's
            own number).
        released_windows: put square windows as far apart as the released code of VPD, EVP and Meta
            Prompts does; the pixels beyond the last one are invalid.
    """

    short_side: int | None = None
    windows: int = 1
    flip: bool = False
    batch_size: int = 1
    ensemble_size: int = 1
    long_side: int | None = None
    tile: int | None = None
    stride: int | None = None
    scales: tuple[float, ...] = (1.0,)
    released_windows: bool = False
    steps: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        whole = ("short_side", "windows", "batch_size", "ensemble_size", "long_side", "steps")
        for name in (*whole, "tile", "stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if (self.tile is None) != (self.stride is None):
            raise InputError("tile and stride belong together: give both, or neither")
        if self.tile is not None and self.stride is not None:
            if self.windows > 1:
                raise InputError("give windows or tile and stride, not both")
            if self.stride > self.tile:
                raise InputError(
                    f"a stride of {self.stride} px leaves gaps between windows of {self.tile} px: "
                    "choose a smaller one"
                )
        if self.released_windows and self.windows == 1:
            raise InputError("released_windows are square ones: give windows too")
        if self.long_side is not None and self.short_side is None:
            raise InputError("long_side limits the size that short_side sets: give short_side too")
        sound = all(0 < scale < math.inf for scale in self.scales)
        if not self.scales or not sound or len(set(self.scales)) < len(self.scales):
            raise InputError(f"scales must be different positive numbers, got {self.scales}")

    def on_grid(self, task: str) -> "Plan":
        """Return the plan of a model whose output has a grid of its own, whatever the image's size.

        Raises:
            InputError: if there are windows, flips or scales.
        """
        usual = Plan()
        for name in ("windows", "tile", "flip", "scales"):
            if getattr(self, name) != getattr(usual, name):
                option = name.replace("_", "-")
                raise InputError(f"{task} maps have a grid of their own: leave --{option} out")
        return replace(self, short_side=None, long_side=None)

    def passes(self, height: int, width: int) -> int:
        """Return the number of forward passes for an image of this size."""
        windows = sum(len(self.windows_of(*self.working_hw(height, width, s))) for s in self.scales)
        return windows * (2 if self.flip else 1) * self.ensemble_size

    def describe(self) -> str:
        """Return one line for captions and files; it names everything that changes the result."""
        size = "own size" if self.short_side is None else f"short side {self.short_side} px"
        limit = "" if self.long_side is None else f" (long side at most {self.long_side} px)"
        windows = "whole image" if self.windows == 1 else f"{self.windows} square windows"
        windows += " as released" if self.released_windows else ""
        if self.tile is not None:
            windows = f"windows of {self.tile} px every {self.stride} px"
        ensemble = "" if self.ensemble_size == 1 else f", ensemble of {self.ensemble_size}"
        sizes = " ".join(f"{scale:g}" for scale in self.scales)
        scales = "" if self.scales == (1.0,) else f", scales {sizes}"
        steps = "" if self.steps is None else f", {self.steps} step{'s' * (self.steps > 1)}"
        flip = "with" if self.flip else "no"
        return f"{size}{limit}, {windows}, {flip} flip{scales}{ensemble}{steps}"

    def windows_of(self, height: int, width: int, *, mirrored: bool = False) -> "list[Window]":
        """Return the windows over an image of this working size.

        Args:
            height: pixels.
            width: pixels.
            mirrored: where those of the mirrored image lie in the image itself: tiles begin at its
                other end, as mmsegmentation's do; square windows stay, as VPD's do.
        """
        from diffsight.ops.tiles import tiles_of, windows_of

        if self.tile is None or self.stride is None:
            return windows_of(height, width, self.windows, covers=not self.released_windows)
        tiles = tiles_of(height, width, self.tile, self.stride)
        if not mirrored:
            return tiles
        return [(rows, slice(width - c.stop, width - c.start)) for rows, c in tiles]

    def working_hw(self, height: int, width: int, scale: float = 1.0) -> tuple[int, int]:
        """Return the size at which an image of ``height`` x ``width`` pixels is run.

        Raises:
            InputError: if that is more than ``MAX_PIXELS``.
        """
        from diffsight.ops.resize import working_hw

        short = scale * (min(height, width) if self.short_side is None else self.short_side)
        long = None if self.long_side is None else int(scale * self.long_side)
        hw = working_hw(height, width, max(1, int(short)), long)
        if hw[0] * hw[1] > MAX_PIXELS:
            raise InputError(
                f"image of {width} x {height} px would be run at {hw[1]} x {hw[0]} px, more than "
                f"{MAX_PIXELS / 1e6:.0f} megapixels: crop it, or choose a smaller short side"
            )
        return hw
