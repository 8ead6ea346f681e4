"""What every prediction says of itself: its arrays, what they mean, and its picture."""

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diffsight.tasks.colour import Plane, Table, error_table, paint
from diffsight.types import Map, Mask, People, Picture

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


@dataclass(frozen=True)
class PredictionSet:
    """The labels that every pixel of an image may have, by a threshold of nonconformity.

    Attributes:
        arrays: what is written to disk, by the end of the file's name (``low``).
        abstain: True where the set is too large to say much.
        meaning: what the arrays and the mask mean, as plain data for a JSON file.
    """

    arrays: Mapping[str, StoredArray]
    abstain: Mask
    meaning: Mapping[str, Any]


class Prediction(abc.ABC):
    """The prediction of a task for one image, at the size of the image.

    Attributes:
        kind: what it is, for the protocols that score it: ``depth``, ``classes``, ``mask``, or a
            name of its own.
    """

    kind: ClassVar[str] = ""

    def to_people(self) -> People:
        """Return the people of a pose, with the scores of their joints.

        Raises:
            TypeError: if it is no pose.
        """
        raise TypeError(f"{type(self).__name__} has no joints")

    @property
    def std(self) -> Map | None:
        """Standard deviation of numbers, root mean square over the channels; None: not known."""
        return None

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.to_label().shape[-2:]
        return height, width

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
    def draw(self, image: Float[Tensor, "3 h w"] | None = None) -> Picture:
        """Return a colour picture; ``image`` in [0, 1] is for predictions drawn over it."""

    def overview(self, image: Float[Tensor, "3 _ _"] | None = None) -> UInt8[Tensor, "3 _ _"]:
        """Return the picture that is written to ``NAME_colour.png``; default: ``draw``."""
        return self.draw(image)

    def legend(self) -> Mapping[str, Colour]:
        """Return what the colours of ``draw`` stand for, by name; default: nothing."""
        return {}

    @abc.abstractmethod
    def draw_with(self, other: Any, image: Float[Tensor, "3 h w"]) -> tuple[Picture, ...]:
        """Return the picture of this, of another prediction on the same scale, and of the error.

        This is the truth, the other the prediction; the image is in [0, 1].
        """


class NumbersPrediction(Prediction):
    """Numbers of one image, of one or several channels.

    Attributes:
        values: the numbers; what is not valid may hold anything.
        valid: False where a number is not finite.
        uncertainty: standard deviation; root mean square over the channels.
        unit: of the numbers, empty where they have none.
        notes: what else their metadata says.
    """

    values: Float[Tensor, "d h w"]
    valid: Mask
    uncertainty: Map | None
    unit: str = ""
    notes: ClassVar[Mapping[str, str]] = {}

    def to_label(self) -> Float[Tensor, "d h w"]:
        """Return the numbers."""
        return self.values

    @property
    def std(self) -> Map | None:
        """The uncertainty."""
        return self.uncertainty

    def arrays(self) -> dict[str, StoredArray]:
        """Return ``values`` (``h w`` or ``h w d``, NaN is unknown) and ``uncertainty``."""
        values = torch.where(self.valid, self.values, torch.nan).movedim(0, -1)
        values = values[..., 0] if values.shape[-1] == 1 else values
        found = {"values": StoredArray(values.cpu().numpy())}
        if self.uncertainty is not None:
            found["uncertainty"] = StoredArray(self.uncertainty.cpu().numpy())
        return found

    def metadata(self) -> dict[str, Any]:
        """Return size, unit, validity and the notes."""
        about: dict[str, Any] = {
            "size": list(self.hw[::-1]),
            "unit": self.unit,
            "valid": round(float(self.valid.float().mean()), 6),
            **self.notes,
        }
        if self.uncertainty is not None:
            about["uncertainty_is"] = "standard deviation of the predicted distribution"
        return about


def to_pixels(image: Float[Tensor, "3 h w"]) -> Picture:
    """Return an image in [0, 1] as bytes on the CPU."""
    return (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)


def draw_map(fraction: Plane, valid: np.ndarray, table: Table) -> Picture:
    """Return the colours of a table for fractions in [0, 1]; dark grey where not valid."""
    pixels = paint(fraction, valid, table)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def draw_gap(truth: Plane, prediction: Plane, valid: np.ndarray, full: float) -> Picture:
    """Return white where both agree, blue where the prediction is too small, red if too large.

    A difference of ``full`` has full colour.
    """
    gap = np.subtract(prediction, truth, where=valid, out=np.zeros_like(truth))
    return draw_map(0.5 + 0.5 * gap / full, valid, error_table())


def draw_rgb(fraction: Float[Tensor, "3 h w"], valid: Mask) -> Picture:
    """Return fractions of 255 as bytes; dark grey where not valid."""
    pixels = (fraction.clamp(0, 1) * 255).round().to(torch.uint8)
    return torch.where(valid.cpu(), pixels, torch.full_like(pixels, 64))


def draw_red(fraction: Map, valid: Mask) -> Picture:
    """Return white (0) to red (1)."""
    fraction = 0.5 + 0.5 * fraction.clamp(0, 1).double()
    return draw_map(fraction.numpy(), valid.cpu().numpy(), error_table())
