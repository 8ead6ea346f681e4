"""What every prediction says of itself: its arrays, what they mean, and its picture."""

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from diffsight.tasks.colour import error_table, paint

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class StoredArray:
    """An array as it is written to disk.

    Attributes:
        values: ``h w`` or ``h w c``. Whole numbers (bytes, or 16 bits) become a PNG, others NPY.
        palette: RGB by number, for a PNG of indices.
        notes: text chunks of the PNG.
    """

    values: np.ndarray
    palette: Mapping[int, Colour] | None = None
    notes: Mapping[str, str] | None = None

    @property
    def suffix(self) -> str:
        """``.png`` or ``.npy``."""
        return ".png" if self.values.dtype in (np.uint8, np.uint16) else ".npy"


class Prediction(abc.ABC):
    """The prediction of a task for one image, at the size of the image.

    Attributes:
        kind: what it is, for the protocols that score it: ``depth``, ``classes``, ``mask``, or a
            name of its own.
    """

    kind: ClassVar[str] = ""

    @property
    @abc.abstractmethod
    def hw(self) -> tuple[int, int]:
        """Height and width in pixels."""

    @abc.abstractmethod
    def to_label(self) -> Tensor:
        """Return the prediction in the form of a label: ``d h w`` of numbers or ``h w`` of ids."""

    @abc.abstractmethod
    def arrays(self) -> Mapping[str, StoredArray]:
        """Return what is written to disk, by the end of the file's name (``depth``)."""

    @abc.abstractmethod
    def metadata(self) -> dict[str, Any]:
        """Return what the arrays mean, as plain data for a JSON file."""

    @abc.abstractmethod
    def draw(self, image: Float[Tensor, "3 h w"] | None = None) -> UInt8[Tensor, "3 h w"]:
        """Return a colour picture; ``image`` in [0, 1] is for predictions drawn over it."""

    @abc.abstractmethod
    def draw_with(
        self, other: Any, image: Float[Tensor, "3 h w"]
    ) -> tuple[UInt8[Tensor, "3 h w"], ...]:
        """Return the picture of this, of another prediction on the same scale, and of the error.

        This is the truth, the other the prediction; the image is in [0, 1].
        """


def to_pixels(image: Float[Tensor, "3 h w"]) -> UInt8[Tensor, "3 h w"]:
    """Return an image in [0, 1] as bytes on the CPU."""
    return (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)


def channels_first(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[Tensor, "3 h w"]:
    """Return a picture as a tensor."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def draw_rgb(fraction: Float[Tensor, "3 h w"], valid: Bool[Tensor, "h w"]) -> Tensor:
    """Return fractions of 255 as bytes; dark grey where not valid."""
    pixels = (fraction.clamp(0, 1) * 255).round().to(torch.uint8)
    return torch.where(valid.cpu(), pixels, torch.full_like(pixels, 64))


def draw_red(fraction: Float[Tensor, "h w"], valid: Bool[Tensor, "h w"]) -> Tensor:
    """Return white (0) to red (1)."""
    fraction = 0.5 + 0.5 * fraction.clamp(0, 1).double()
    return channels_first(paint(fraction.numpy(), valid.cpu().numpy(), error_table()))


def rounded_fraction(mask: Bool[Tensor, "h w"]) -> float:
    """Return how much of an image a mask covers."""
    return round(float(mask.float().mean()), 6)
