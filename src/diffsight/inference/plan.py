"""The plan: how an image is run through a model; printed beside the protocol of every result."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from diffsight.ops.resize import working_hw
from diffsight.types import InputError

ShortSide = int | Literal["training", "own"]
# images beyond this are refused before anything is computed: they would end in a killed process
MAX_PIXELS = 2**26


def short_side_px(wish: ShortSide, config: Mapping[str, Any]) -> int | None:
    """The pixels that ``Plan.short_side`` wants.

    Args:
        wish: pixels, ``own`` for the image's own size, or ``training`` for the size of the images
            that the model learned from (the own size where that is not known).
        config: of the saved model.
    """
    if wish == "training":
        return config.get("info", {}).get("training", {}).get("short_side")
    return None if wish == "own" else wish


@dataclass(frozen=True)
class Plan:
    """How an image is run.

    Attributes:
        short_side: pixels that the shorter side is resized to before the model sees the image (the
            result is resized back), or None for the image's own size.
        windows: 1 is the whole image at once; from 2 on, square windows along the longer side (at
            least as many as given here, more where it takes more to cover the image) whose results
            are averaged.
        flip: run the mirrored image too, and average.
        noises: for methods that add noise, how many draws of it are averaged.
        batch_size: windows of one size that are run together. It changes the speed, never the
            result.
    """

    short_side: int | None = None
    windows: int = 1
    flip: bool = False
    batch_size: int = 1
    noises: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        for name in ("short_side", "windows", "batch_size", "noises"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")

    @property
    def passes(self) -> int:
        """Per image, at most: there may be more windows where it takes more to cover the image."""
        return self.windows * (2 if self.flip else 1) * self.noises

    def describe(self) -> str:
        """One line for a table's caption, a sidecar or a card; says all that changes the result."""
        size = "own size" if self.short_side is None else f"short side {self.short_side} px"
        windows = "whole image" if self.windows == 1 else f"{self.windows} square windows"
        noises = "" if self.noises == 1 else f", mean of {self.noises} noises"
        return f"{size}, {windows}, {'with' if self.flip else 'no'} flip{noises}"

    def working_hw(self, height: int, width: int) -> tuple[int, int]:
        """The size at which an image of ``height`` x ``width`` pixels is run.

        Raises:
            InputError: if that is more than ``MAX_PIXELS``.
        """
        hw = (height, width)
        if self.short_side is not None:
            hw = working_hw(height, width, self.short_side)
        if hw[0] * hw[1] > MAX_PIXELS:
            raise InputError(
                f"image of {width} x {height} px would be run at {hw[1]} x {hw[0]} px, more than "
                f"{MAX_PIXELS / 1e6:.0f} megapixels: crop it, or choose a smaller short side"
            )
        return hw
