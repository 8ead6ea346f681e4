"""Prediction sets at a confidence level, with conformal risk control per image.

Every pixel of ``n`` labelled images has a nonconformity score ``s``
(``AbstractTask.nonconformity``), computed by a model that was not trained on the image. The
coverage of image ``i`` at a threshold ``q`` is the fraction of its valid pixels with ``s <= q``.
The threshold of a confidence ``c`` is

    the smallest q with  mean_i coverage_i(q) >= c (n + 1) / n.

This is equation 4 of Angelopoulos et al., "Conformal Risk Control" (2022), for the risk
``1 - coverage_i`` with the bound 1. For exchangeable images the expected coverage of a new image is
then at least ``c``. A confidence needs ``n >= c / (1 - c)`` images, such as 9 for 0.9.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.errors import InputError
from diffsight.inference.plan import Plan
from diffsight.outputs import Output
from diffsight.tasks import AbstractTask, Prediction
from diffsight.tasks.prediction import Colour, PredictionSet, StoredArray
from diffsight.types import Map, Picture

# a calibration has thresholds for these confidences; others use that of the next larger one
CONFIDENCES = (*(step / 200 for step in range(100, 198)), *(n / 1000 for n in range(990, 1000)))
ROUNDING = 1e-9  # tolerance for rounding errors of fractions
STRIPE_PX = 4  # width of the stripes over pixels where the model abstains
GREY = 128


def compute_required_coverage(confidence: float, images: int) -> float:
    """Return the mean coverage that a threshold must reach on the calibration images.

    It is greater than 1, and thus impossible, if there are too few images for the confidence.

    Args:
        confidence: expected coverage of a new image.
        images: number of calibration images.
    """
    return confidence * (images + 1) / images


def count_required_images(confidence: float) -> int:
    """Return the smallest number of calibration images for a confidence."""
    return math.ceil(confidence / (1 - confidence) - ROUNDING)


@dataclass(frozen=True)
class Threshold:
    """The threshold of a calibration at one confidence.

    Attributes:
        confidence: expected fraction of the pixels whose true label is in the prediction set.
        q: threshold of the nonconformity score.
        images: number of calibration images.
        half_widths: half the width of the interval of each total (``AbstractTask.totals``, such as
            a mean value or the area of a class), by name.
        is_same_plan: whether predictions use the plan of the calibration.
    """

    confidence: float
    q: float
    images: int
    half_widths: Mapping[str, float]
    is_same_plan: bool = True

    def apply(
        self, task: AbstractTask, prediction: Prediction, output: Output
    ) -> "ConfidentPrediction":
        """Return a prediction with its prediction set.

        Args:
            task: task of the prediction.
            prediction: prediction of one image.
            output: output from which the prediction was decoded, a batch of one, reduced (see
                ``Output.reduced``).
        """
        prediction_set = task.prediction_set(output, self.q)
        about: dict[str, Any] = {
            "confidence": self.confidence,
            "q": self.q,
            "images": self.images,
            "same_plan": self.is_same_plan,
            "abstained": round(float(prediction_set.abstain.float().mean()), 6),
            **prediction_set.meaning,
        }
        label = prediction.to_label()
        totals = task.totals(label, torch.ones(label.shape[-2:], dtype=torch.bool))
        about |= self._intervals(totals, task, prediction.hw[0] * prediction.hw[1])
        return ConfidentPrediction(prediction, prediction_set, about)

    def _intervals(
        self, totals: Mapping[str, float], task: AbstractTask, pixels: int
    ) -> dict[str, Any]:
        """Return each total with its interval: ``area`` by class, or ``mean`` and ``volume``."""
        intervals: dict[str, Any] = {}
        for name, value in totals.items():
            half = self.half_widths.get(name, 0.0)
            group, _, member = name.partition(".")
            if member:
                one = {
                    "value": value,
                    "low": max(0.0, value - half),
                    "high": min(1.0, value + half),
                }
                intervals.setdefault(group, {})[member] = one
                continue
            one = {"value": value, "low": max(task.lower_bound, value - half), "high": value + half}
            intervals[group] = {**one, "unit": task.unit}
            volume = {key: number * pixels for key, number in one.items()}
            intervals["volume"] = {**volume, "unit": f"{task.unit}·px"}
        return intervals


@dataclass(frozen=True)
class Calibration:
    """A calibration on held-out images: thresholds of pixels, and residuals of totals.

    Attributes:
        images: number ``n`` of held-out images.
        confidences: confidences with a threshold, ascending; at most ``n / (n + 1)``.
        q: threshold of the nonconformity score for each confidence.
        residuals: ``|true - predicted|`` of each total over the images, by name, ascending;
            residuals of 0 are not stored.
    """

    images: int
    confidences: Sequence[float]
    q: Sequence[float]
    residuals: Mapping[str, Sequence[float]]

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Self:
        """Return the calibration that is stored in ``DenseModel.info``.

        Raises:
            InputError: if the model has no calibration.
        """
        stored = info.get("calibration")
        if stored is None:
            raise InputError(
                "the model has no calibration for --confidence: adapt it again with `diffsight "
                "adapt` on 9 or more labelled images, or leave --confidence out"
            )
        residuals = {name: [*map(float, one)] for name, one in stored["residuals"].items()}
        confidences, q = ([*map(float, stored[key])] for key in ("confidence", "q"))
        return cls(stored["images"], confidences, q, residuals)

    def at(self, confidence: float) -> Threshold:
        """Return the threshold of a confidence.

        Args:
            confidence: expected coverage, from 0.5 to 0.999.

        Raises:
            InputError: if it is out of range, or the model was calibrated on too few images.
        """
        if not CONFIDENCES[0] <= confidence <= CONFIDENCES[-1]:
            raise InputError(
                f"confidence {confidence:g}: give a number from {CONFIDENCES[0]} to "
                f"{CONFIDENCES[-1]}"
            )
        for one, q in zip(self.confidences, self.q, strict=True):
            if one >= confidence - ROUNDING:
                halves = {name: self.half_width(name, confidence) for name in self.residuals}
                return Threshold(confidence, q, self.images, halves)
        raise InputError(
            f"confidence {confidence:g} needs {count_required_images(confidence)} labelled images, "
            f"the model was calibrated on {self.images}: label more images, or give --confidence "
            f"{self.confidences[-1]:g}"
        )

    def half_width(self, name: str, confidence: float) -> float:
        """Return half the width of the interval of a total (split conformal prediction).

        It is the ``ceil((n + 1) c)``-th smallest residual (Lei et al. 2018, section 2.2).

        Args:
            name: name of the total.
            confidence: expected coverage.
        """
        rank = math.ceil((self.images + 1) * confidence - ROUNDING)
        residuals = self.residuals[name]
        position = rank - 1 - (self.images - len(residuals))  # residuals of 0 are not stored
        return residuals[position] if position >= 0 else 0.0


def select_threshold(info: Mapping[str, Any], plan: Plan, confidence: float) -> Threshold:
    """Return the threshold of a confidence for a model and a plan.

    In the calibration the model was run on whole images at the size of the training images. The
    threshold records whether ``plan`` does the same.

    Args:
        info: ``DenseModel.info`` of the model.
        plan: how the model is run on an image.
        confidence: expected fraction of the pixels whose true label is in the prediction set.

    Raises:
        InputError: if the model has no calibration, or was calibrated on too few images.
    """
    threshold = Calibration.of(info).at(confidence)
    calibrated = Plan(info.get("short_side"), batch_size=plan.batch_size)
    return replace(threshold, is_same_plan=plan == calibrated)


@dataclass(frozen=True)
class ConfidentPrediction(Prediction):
    """A prediction with a prediction set.

    All attributes of the prediction of the task are available as attributes of this object.

    Attributes:
        prediction: prediction of the task.
        prediction_set: labels that each pixel may have, as an interval, radius or set of classes.
        calibrated: confidence, threshold and totals with their intervals, as plain data.
    """

    prediction: Prediction
    prediction_set: PredictionSet
    calibrated: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Copy the kind of the prediction."""
        object.__setattr__(self, "kind", self.prediction.kind)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the wrapped prediction."""
        if name.startswith("_") or name == "prediction":  # not set yet while it is copied
            raise AttributeError(name)
        return getattr(self.prediction, name)

    @property
    def std(self) -> Map | None:
        """The standard deviation of the prediction; None if it has none."""
        return self.prediction.std

    def legend(self) -> Mapping[str, Colour]:
        """Return the colours of the prediction by their meaning."""
        return self.prediction.legend()

    def to_label(self) -> Tensor:
        """Return the prediction in the form of a label."""
        return self.prediction.to_label()

    def arrays(self) -> dict[str, StoredArray]:
        """Return the arrays of the prediction and of its set, and the mask ``abstain``.

        The mask is 255 at pixels where the model abstains, else 0.
        """
        abstain = StoredArray((self.prediction_set.abstain * 255).to(torch.uint8).cpu().numpy())
        return {**self.prediction.arrays(), **self.prediction_set.arrays, "abstain": abstain}

    def numbers(self) -> tuple[np.ndarray, str]:
        """Return the main array of the prediction and its unit."""
        return self.prediction.numbers()

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of the prediction and ``calibrated``."""
        return {**self.prediction.metadata(), "calibrated": dict(self.calibrated)}

    def draw(self, image: Float[Tensor, "3 h w"] | None = None) -> Picture:
        """Return the picture of the prediction, with grey stripes where the model abstains."""
        picture = self.prediction.draw(image).clone()
        height, width = self.prediction_set.abstain.shape
        diagonal = torch.arange(height)[:, None] + torch.arange(width)
        stripes = self.prediction_set.abstain.cpu() & (diagonal // STRIPE_PX % 2 == 0)
        picture[:, stripes] = GREY
        return picture

    def draw_with(self, other: Any, image: Float[Tensor, "3 h w"]) -> tuple[Picture, ...]:
        """Return the pictures of label, prediction and error that the prediction draws."""
        return self.prediction.draw_with(other, image)
