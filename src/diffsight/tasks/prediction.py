"""The base class of predictions: their arrays, their metadata, and their picture."""

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
"""RGB from 0 to 255."""


@dataclass(frozen=True)
class StoredArray:
    """An array that is written to disk.

    Attributes:
        values: ``h w`` or ``h w c``. Unsigned integers of 8 or 16 bits are written as PNG, other
            types as NPY.
        palette: RGB colours by index, for a PNG of indices.
        notes: text chunks of the PNG.
    """

    values: np.ndarray
    palette: Mapping[int, Colour] | None = None
    notes: Mapping[str, str] | None = None

    @property
    def suffix(self) -> str:
        """Suffix of the file: ``.png`` or ``.npy``."""
        return ".png" if self.values.dtype in (np.uint8, np.uint16) else ".npy"


@dataclass(frozen=True)
class PredictionSet:
    """The set of possible labels of every pixel at some confidence (conformal prediction).

    It has the labels whose nonconformity is at most a threshold.

    Attributes:
        arrays: arrays that are written to disk, by the ending of the file's name (``low`` for
            ``NAME_low.npy``).
        abstain: True where the set is so large that the model abstains.
        meaning: meaning of the arrays and the mask, as plain data for a JSON file.
    """

    arrays: Mapping[str, StoredArray]
    abstain: Mask
    meaning: Mapping[str, Any]


class Prediction(abc.ABC):
    """Base class of the prediction of a task for one image, at the size of the image.

    Attributes:
        kind: kind of prediction, by which a protocol decides whether it can score it: ``depth``,
            ``classes``, ``mask``, ``pose``, ``map``, or any other name.
    """

    kind: ClassVar[str] = ""

    def to_people(self) -> People:
        """Return the predicted people, with a score for every joint.

        Raises:
            TypeError: if the prediction has no joints.
        """
        raise TypeError(f"{type(self).__name__} has no joints")

    @property
    def std(self) -> Map | None:
        """Standard deviation of values, root mean square over the channels; None if unknown."""
        return None

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.to_label().shape[-2:]
        return height, width

    @abc.abstractmethod
    def to_label(self) -> Tensor:
        """Return the predicted label: values ``d h w`` or class numbers ``h w``."""

    @abc.abstractmethod
    def arrays(self) -> Mapping[str, StoredArray]:
        """Return the arrays that are written to disk, by the ending of the file's name."""

    @abc.abstractmethod
    def metadata(self) -> dict[str, Any]:
        """Return the meaning of the arrays, as plain data for a JSON file."""

    def numbers(self) -> tuple[np.ndarray, str]:
        """Return the main array and the unit of its values, which is empty if they have none.

        The default is the first of the stored arrays. A kind of prediction that stores scaled or
        rounded values returns the values themselves.
        """
        first = next(iter(self.arrays().values()))
        return first.values, str(self.metadata().get("unit", ""))

    @abc.abstractmethod
    def draw(self, image: Float[Tensor, "3 h w"] | None = None) -> Picture:
        """Return a colour picture of the prediction.

        Args:
            image: image in [0, 1], over which some kinds of predictions are drawn.
        """

    def overview(self, image: Float[Tensor, "3 _ _"] | None = None) -> UInt8[Tensor, "3 _ _"]:
        """Return the picture that is written to ``NAME_colour.png``; default: ``draw``."""
        return self.draw(image)

    def legend(self) -> Mapping[str, Colour]:
        """Return the colours of ``draw`` by their meaning; default: none."""
        return {}

    @abc.abstractmethod
    def draw_with(self, other: Any, image: Float[Tensor, "3 h w"]) -> tuple[Picture, ...]:
        """Return pictures of this object (the truth), of a prediction, and of its error.

        Args:
            other: prediction for the image, of the same class; it is drawn on the same scale.
            image: image in [0, 1].
        """


class NumbersPrediction(Prediction):
    """Base class of predictions of values, with one or several channels.

    Attributes:
        values: predicted values; invalid pixels may have any value.
        valid: False where a value is not finite.
        uncertainty: standard deviation, root mean square over the channels; None if unknown.
        unit: unit of the values, empty if they have none.
        notes: further entries of the metadata.
    """

    values: Float[Tensor, "d h w"]
    valid: Mask
    uncertainty: Map | None
    unit: str = ""
    notes: ClassVar[Mapping[str, str]] = {}

    def to_label(self) -> Float[Tensor, "d h w"]:
        """Return the values."""
        return self.values

    @property
    def std(self) -> Map | None:
        """The standard deviation; None if unknown."""
        return self.uncertainty

    def arrays(self) -> dict[str, StoredArray]:
        """Return ``values`` (``h w`` or ``h w d``, NaN is invalid) and ``uncertainty`` if known."""
        values = torch.where(self.valid, self.values, torch.nan).movedim(0, -1)
        values = values[..., 0] if values.shape[-1] == 1 else values
        arrays = {"values": StoredArray(values.cpu().numpy())}
        if self.uncertainty is not None:
            arrays["uncertainty"] = StoredArray(self.uncertainty.cpu().numpy())
        return arrays

    def metadata(self) -> dict[str, Any]:
        """Return size (width, height), unit, fraction of valid pixels, and the notes."""
        metadata: dict[str, Any] = {
            "size": list(self.hw[::-1]),
            "unit": self.unit,
            "valid": round(float(self.valid.float().mean()), 6),
            **self.notes,
        }
        if self.uncertainty is not None:
            metadata["uncertainty_is"] = "standard deviation of the predicted distribution"
        return metadata


def to_pixels(image: Float[Tensor, "3 h w"]) -> Picture:
    """Return an image in [0, 1] with values from 0 to 255, on the CPU."""
    return (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)


def draw_map(fraction: Plane, valid: np.ndarray, table: Table) -> Picture:
    """Return a picture of fractions in [0, 1], coloured by a colour map; invalid is dark grey.

    Args:
        fraction: fractions in [0, 1]; others are clipped.
        valid: mask of valid pixels.
        table: colour map, as ``depth_table`` returns it.
    """
    pixels = paint(fraction, valid, table)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def draw_error(truth: Plane, prediction: Plane, valid: np.ndarray, full: float) -> Picture:
    """Return a picture of the error: white for none, blue for too small, red for too large.

    Args:
        truth: labels.
        prediction: predicted values.
        valid: mask of pixels that are valid in both; others are dark grey.
        full: error at which the colour is full.
    """
    error = np.subtract(prediction, truth, where=valid, out=np.zeros_like(truth))
    return draw_map(0.5 + 0.5 * error / full, valid, error_table())


def draw_rgb(fraction: Float[Tensor, "3 h w"], valid: Mask) -> Picture:
    """Return a picture of fractions in [0, 1] as RGB; dark grey where invalid."""
    pixels = (fraction.clamp(0, 1) * 255).round().to(torch.uint8)
    return torch.where(valid.cpu(), pixels, torch.full_like(pixels, 64))


def draw_red(fraction: Map, valid: Mask) -> Picture:
    """Return a picture of fractions in [0, 1], from white to red; dark grey where invalid."""
    fraction = 0.5 + 0.5 * fraction.clamp(0, 1).double()
    return draw_map(fraction.numpy(), valid.cpu().numpy(), error_table())
