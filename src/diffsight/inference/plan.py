"""The plan: how a model is run on an image (size, windows, flips). Every result states its plan.

The command line reads its options from ``Plan``, so torch is imported only in the methods that
compute sizes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from diffsight.errors import InputError

if TYPE_CHECKING:
    from diffsight.model import DenseModel
    from diffsight.ops.tiles import Window

ShortSide = int | Literal["training", "own"]
# larger images are refused in advance, because the system would kill the process for its memory
MAX_PIXELS = 2**26


def short_side_px(short_side: ShortSide, info: Mapping[str, Any]) -> int | None:
    """Return the value of ``Plan.short_side``: pixels, or None for the image's own size.

    Args:
        short_side: pixels; ``own`` for the image's own size; or ``training`` for the size of the
            training images (the image's own size if the model does not record it).
        info: ``DenseModel.info`` of the model.
    """
    if short_side == "training":
        return info.get("short_side")
    return None if short_side == "own" else short_side


@dataclass(frozen=True)
class Plan:
    """How a model is run on an image.

    Attributes:
        short_side: length in pixels to which the shorter side is resized for the model (the result
            is resized back), or None for the image's own size.
        long_side: maximum length in pixels of the longer side after the resize (default: no limit).
        windows: 1 runs the whole image; 2 or more runs square windows along the longer side and
            averages their results. Elongated images get as many windows as are needed to cover
            them.
        tile: side in pixels of square windows over the whole image, whose results are averaged; use
            it with a stride and without windows (default: none).
        stride: distance in pixels from one tile to the next, at most its side (default: none).
        scales: run the image at these multiples of its working size, such as 1,1.25,1.5. With two
            or more, logits become probabilities before scales and mirrored passes are averaged, as
            in mmsegmentation.
        flip: also run the mirrored image, and average the results.
        ensemble_size: number of passes with different noise whose results are averaged, for
            methods that add noise.
        batch_size: number of windows of the same size that run together; it changes the speed, and
            of the result the last digits.
        steps: number of steps of a method that refines its output step by step, such as DDP
            (default: the number that is stored in the model).
        released_windows: space square windows as in the released code of VPD, EVP and Meta
            Prompts; pixels beyond the last window are invalid.
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
        """Refuse values that are out of range or contradict each other."""
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
            raise InputError("released_windows needs square windows: set windows to 2 or more")
        if self.long_side is not None and self.short_side is None:
            raise InputError("long_side limits the size that short_side sets: give short_side too")
        are_positive = all(0 < scale < math.inf for scale in self.scales)
        if not self.scales or not are_positive or len(set(self.scales)) < len(self.scales):
            raise InputError(f"scales must be different positive numbers, got {self.scales}")

    def for_model(self, model: "DenseModel") -> "Plan":
        """Return the plan with which a model runs; without image sizes if its maps have a grid.

        Raises:
            InputError: if the plan has steps but the method has none, windows, flips or scales but
                the output a fixed grid, windows that leave pixels out but the output no values, or
                flips but the task sentences.
        """
        if self.steps is not None and not model.method.accepts_steps:
            raise InputError(
                f"{type(model.method).__name__} does not refine its output step by step: leave "
                "steps out"
            )
        if self.flip and model.task.requires_prompt:
            raise InputError(
                "a mirrored image does not fit a sentence with left or right: leave flip out"
            )
        if self.released_windows and model.output.kind != "values":
            raise InputError(
                "released_windows leave columns without a prediction, which only depth and other "
                "values can mark as invalid: leave them out"
            )
        return self if model.output.grid is None else self._on_grid(type(model.task).__name__)

    def _on_grid(self, task: str) -> "Plan":
        default = Plan()
        for name in ("windows", "tile", "flip", "scales"):
            if getattr(self, name) != getattr(default, name):
                option = name.replace("_", "-")
                raise InputError(f"{task} maps have their own grid: leave --{option} out")
        return replace(self, short_side=None, long_side=None)

    def passes(self, height: int, width: int) -> int:
        """Return the number of forward passes for an image of ``height`` x ``width`` pixels."""
        windows = sum(
            len(self.make_windows(*self.working_hw(height, width, s))) for s in self.scales
        )
        return windows * (2 if self.flip else 1) * self.ensemble_size

    def describe(self) -> str:
        """Return all settings that change the result, in one line."""
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

    def make_windows(self, height: int, width: int, *, mirrored: bool = False) -> "list[Window]":
        """Return the windows over an image at its working size.

        Args:
            height: height of the working size in pixels.
            width: width of the working size in pixels.
            mirrored: whether to return the windows of the mirrored image, in coordinates of the
                image itself. Tiles then start at the right edge, as in mmsegmentation; square
                windows stay the same, as in VPD.

        Returns:
            Rows and columns of each window.
        """
        from diffsight.ops.tiles import make_tiles, make_windows

        if self.tile is None or self.stride is None:
            return make_windows(height, width, self.windows, covers=not self.released_windows)
        tiles = make_tiles(height, width, self.tile, self.stride)
        if not mirrored:
            return tiles
        return [(rows, slice(width - c.stop, width - c.start)) for rows, c in tiles]

    def working_hw(self, height: int, width: int, scale: float = 1.0) -> tuple[int, int]:
        """Return the height and width in pixels at which the model is run on an image.

        Args:
            height: height of the image in pixels.
            width: width of the image in pixels.
            scale: multiple of the working size, one of ``scales``.

        Raises:
            InputError: if the size has more than ``MAX_PIXELS`` pixels.
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
