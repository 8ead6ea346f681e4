"""The plan: how a model is run on an image (size, windows, flips). Every result states its plan.

The command line reads its options from ``Plan``, so torch is imported only in the methods that
compute sizes.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

from diffsight.errors import InputError

if TYPE_CHECKING:
    from diffsight.model import DenseModel
    from diffsight.ops.tiles import Window

ShortSide = int | Literal["training", "own"]
# larger images are refused in advance, because the system would kill the process for its memory
MAX_PIXELS = 2**26
PIXEL_BYTES = 24  # minimum memory per pixel: three colours, an output and its statistics
_FIELD = re.compile(r"\{(\w+)\}")


class PlanError(InputError):
    """A plan cannot be used. The message names fields of ``Plan``, or flags on the command line.

    Args:
        template: message with the names of fields in braces, such as ``leave {flip} out``.
    """

    def __init__(self, template: str) -> None:
        super().__init__(_FIELD.sub(r"\1", template))
        self.template = template

    def for_flags(self) -> str:
        """Return the message with the names of flags, such as ``--batch-size``."""
        return _FIELD.sub(lambda field: f"--{field[1].replace('_', '-')}", self.template)


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


_COUNTS = ("windows", "batch_size", "ensemble_size")
_LENGTHS = ("short_side", "long_side", "tile", "stride", "steps")  # may be None


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
        """Refuse values of a wrong type, out of range, or that contradict each other.

        Raises:
            PlanError: if there is one.
        """
        self._convert()
        for name in (*_COUNTS, *_LENGTHS):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise PlanError(f"{{{name}}} must be at least 1, got {value}")
        if (self.tile is None) != (self.stride is None):
            raise PlanError("{tile} and {stride} belong together: give both, or neither")
        if self.tile is not None and self.stride is not None:
            if self.windows > 1:
                raise PlanError("give {windows} or {tile} and {stride}, not both")
            if self.stride > self.tile:
                raise PlanError(
                    f"a {{stride}} of {self.stride} px leaves gaps between windows of "
                    f"{self.tile} px: choose a smaller one"
                )
        if self.released_windows and self.windows == 1:
            raise PlanError("{released_windows} needs square windows: set {windows} to 2 or more")
        if self.long_side is not None and self.short_side is None:
            raise PlanError(
                "{long_side} limits the size that {short_side} sets: give {short_side} too"
            )
        are_positive = all(0 < scale < math.inf for scale in self.scales)
        if not self.scales or not are_positive or len(set(self.scales)) < len(self.scales):
            raise PlanError(f"{{scales}} must be different positive numbers, got {self.scales}")

    def _convert(self) -> None:
        """Convert numbers to int and float, and one scale to a tuple; refuse other types."""
        for name in (*_COUNTS, *_LENGTHS):
            value: Any = getattr(self, name)
            if value is None and name in _LENGTHS:
                continue
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise PlanError(f"{{{name}}} must be a whole number, got {value!r}")
            object.__setattr__(self, name, int(value))
        for name in ("flip", "released_windows"):
            if not isinstance(getattr(self, name), bool):
                raise PlanError(f"{{{name}}} must be True or False, got {getattr(self, name)!r}")
        scales: Any = self.scales
        try:
            numbers = (scales,) if isinstance(scales, Real) else tuple(scales)
        except TypeError:
            numbers = (scales,)
        if not all(isinstance(one, Real) and not isinstance(one, bool) for one in numbers):
            raise PlanError(f"{{scales}} must be numbers such as 1 and 1.5, got {scales!r}")
        object.__setattr__(self, "scales", tuple(map(float, numbers)))

    def for_model(self, model: "DenseModel", device: str = "cpu") -> "Plan":
        """Return the plan with which a model runs; without image sizes if its maps have a grid.

        Args:
            model: the model.
            device: device that it runs on.

        Raises:
            TooLargeError: if the device has too little memory for the size.
            PlanError: if the plan has steps but the method has none, an ensemble but the method
                adds no noise, windows, flips or scales but the output a fixed grid, windows that
                leave pixels out but the output no values, or flips but the task sentences.
        """
        name = type(model.method).__name__
        if self.steps is not None and not model.method.accepts_steps:
            raise PlanError(f"{name} has no steps to choose: leave {{steps}} out")
        if self.ensemble_size > 1 and not model.method.uses_noise:
            raise PlanError(
                f"{name} adds no noise, so all passes of an ensemble are equal: leave "
                "{ensemble_size} out"
            )
        if self.flip and model.task.requires_prompt:
            raise PlanError(
                "a mirrored image does not fit a sentence with left or right: leave {flip} out"
            )
        if self.released_windows and model.output.kind != "values":
            raise PlanError(
                "{released_windows} leave columns without a prediction, which only depth and other "
                "values can mark as invalid: leave them out"
            )
        if model.output.grid is not None:
            return self._on_grid(type(model.task).__name__)
        self._require_memory(device)
        return self

    def _require_memory(self, device: str) -> None:
        from diffsight.ops.machine import require_bytes

        side = (self.short_side or 0) * max(self.scales)
        subject = f"images at a short side of {side:.0f} px"
        repair = "choose a smaller --short-side"
        require_bytes(side**2 * PIXEL_BYTES, subject, repair, device=device)

    def _on_grid(self, task: str) -> "Plan":
        default = Plan()
        for name in ("windows", "tile", "flip", "scales"):
            if getattr(self, name) != getattr(default, name):
                raise PlanError(f"{task} maps have their own grid: leave {{{name}}} out")
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
