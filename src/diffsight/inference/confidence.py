"""Prediction sets at a confidence: conformal risk control by image, from a stored calibration.

Every pixel of ``n`` labelled images has a nonconformity ``s`` (``AbstractTask.nonconformity``),
computed by a model that was not trained on the image. The coverage of image ``i`` by a threshold
``q`` is the fraction of its valid pixels with ``s <= q``. The threshold of a confidence ``c`` is

    the smallest q with  mean_i coverage_i(q) >= c (n + 1) / n,

which is equation 4 of Angelopoulos et al., "Conformal Risk Control" (2022), for the miscoverage
``1 - coverage_i`` and its bound 1. For exchangeable images the expected coverage of a new image is
then at least ``c``. It takes ``n >= c / (1 - c)`` images: 9 for 0.9.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.errors import InputError
from diffsight.inference.plan import Plan
from diffsight.outputs import Output
from diffsight.tasks import AbstractTask, Prediction
from diffsight.tasks.prediction import PredictionSet, StoredArray
from diffsight.types import Picture

# thresholds are stored for these; a confidence between two of them takes the larger one's
CONFIDENCES = (*(step / 200 for step in range(100, 198)), *(n / 1000 for n in range(990, 1000)))
ROUNDING = 1e-9  # of sums of fractions
STRIPE_PX = 4  # width of the stripes over pixels where the model abstains
GREY = 128


def required_coverage(confidence: float, images: int) -> float:
    """Return the mean coverage that calibration images need; above 1 there are too few of them."""
    return confidence * (images + 1) / images


def required_images(confidence: float) -> int:
    """Return the smallest number of calibration images for a confidence."""
    return math.ceil(confidence / (1 - confidence) - ROUNDING)


@dataclass(frozen=True)
class Threshold:
    """A calibration at one confidence.

    Attributes:
        confidence: expected fraction of the pixels whose label is in the set.
        q: threshold of the nonconformity.
        images: that were calibrated on.
        half_widths: of the intervals of ``AbstractTask.totals``, by name.
        is_same_plan: whether images are run as those of the calibration.
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
            task: whose prediction it is.
            prediction: of one image.
            output: that was decoded, reduced, a batch of one.
        """
        found = task.prediction_set(output, self.q)
        about: dict[str, Any] = {
            "confidence": self.confidence,
            "q": self.q,
            "images": self.images,
            "same_plan": self.is_same_plan,
            "abstained": round(float(found.abstain.float().mean()), 6),
            **found.meaning,
        }
        label = prediction.to_label()
        totals = task.totals(label, torch.ones(label.shape[-2:], dtype=torch.bool))
        about |= self._intervals(totals, task, prediction.hw[0] * prediction.hw[1])
        return ConfidentPrediction(prediction, found, about)

    def _intervals(
        self, totals: Mapping[str, float], task: AbstractTask, pixels: int
    ) -> dict[str, Any]:
        """Return ``area`` by class, or ``mean`` and ``volume`` (mean times pixels)."""
        found: dict[str, Any] = {}
        for name, value in totals.items():
            half = self.half_widths.get(name, 0.0)
            group, _, member = name.partition(".")
            if member:
                one = {
                    "value": value,
                    "low": max(0.0, value - half),
                    "high": min(1.0, value + half),
                }
                found.setdefault(group, {})[member] = one
                continue
            one = {"value": value, "low": max(task.lower_bound, value - half), "high": value + half}
            found[group] = {**one, "unit": task.unit}
            volume = {key: number * pixels for key, number in one.items()}
            found["volume"] = {**volume, "unit": f"{task.unit}·px"}
        return found


@dataclass(frozen=True)
class Calibration:
    """Thresholds of the nonconformity and residuals of totals, from held-out images.

    Attributes:
        images: their number ``n``.
        confidences: ascending; at most ``n / (n + 1)``.
        q: threshold of each.
        residuals: ``|true - predicted|`` of every total that is not 0, ascending.
    """

    images: int
    confidences: Sequence[float]
    q: Sequence[float]
    residuals: Mapping[str, Sequence[float]]

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Self:
        """Return the calibration in ``DenseModel.info``.

        Raises:
            InputError: if there is none.
        """
        stored = info.get("calibration")
        if stored is None:
            raise InputError(
                "the model has no calibration, so it has no confidence: label 9 or more images and "
                "make it again with `diffsight adapt`, or leave --confidence out"
            )
        residuals = {name: [*map(float, one)] for name, one in stored["residuals"].items()}
        confidences, q = ([*map(float, stored[key])] for key in ("confidence", "q"))
        return cls(stored["images"], confidences, q, residuals)

    def at(self, confidence: float) -> Threshold:
        """Return the threshold of a confidence.

        Raises:
            InputError: if it is out of range, or there are too few images for it.
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
            f"confidence {confidence:g} needs {required_images(confidence)} labelled images, the "
            f"model was calibrated on {self.images}: label more images, or give --confidence "
            f"{self.confidences[-1]:g}"
        )

    def half_width(self, name: str, confidence: float) -> float:
        """Return half the width of the interval of a total (split conformal prediction).

        It is the ``ceil((n + 1) c)``-th smallest residual (Lei et al. 2018, section 2.2).
        """
        rank = math.ceil((self.images + 1) * confidence - ROUNDING)
        residuals = self.residuals[name]
        position = rank - 1 - (self.images - len(residuals))  # the others are 0
        return residuals[position] if position >= 0 else 0.0


def threshold_of(info: Mapping[str, Any], plan: Plan, confidence: float) -> Threshold:
    """Return the threshold of a confidence for a model that runs images as a plan says.

    Args:
        info: of the model (``DenseModel.info``).
        plan: how images are run. The calibration ran whole images at the size of the training.
        confidence: expected fraction of the pixels whose label is in the set.

    Raises:
        InputError: if the model has no calibration, or one on too few images.
    """
    found = Calibration.of(info).at(confidence)
    calibrated = Plan(info.get("short_side"), batch_size=plan.batch_size)
    return Threshold(found.confidence, found.q, found.images, found.half_widths, plan == calibrated)


@dataclass(frozen=True)
class ConfidentPrediction(Prediction):
    """A prediction with the labels that every pixel may have; it has the prediction's attributes.

    Attributes:
        prediction: of the task.
        prediction_set: labels that every pixel may have.
        calibrated: confidence, threshold and totals with their intervals, as plain data.
    """

    prediction: Prediction
    prediction_set: PredictionSet
    calibrated: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Take the kind of the prediction."""
        object.__setattr__(self, "kind", self.prediction.kind)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the prediction."""
        if name.startswith("_") or name == "prediction":  # not there yet while it is copied
            raise AttributeError(name)
        return getattr(self.prediction, name)

    def to_label(self) -> Tensor:
        """Return the prediction in the form of a label."""
        return self.prediction.to_label()

    def arrays(self) -> dict[str, StoredArray]:
        """Return those of the prediction, of its set, and ``abstain``: 255 where the model does."""
        abstain = StoredArray((self.prediction_set.abstain * 255).to(torch.uint8).cpu().numpy())
        return {**self.prediction.arrays(), **self.prediction_set.arrays, "abstain": abstain}

    def metadata(self) -> dict[str, Any]:
        """Return what the prediction says of itself, and ``calibrated``."""
        return {**self.prediction.metadata(), "calibrated": dict(self.calibrated)}

    def draw(self, image: Float[Tensor, "3 h w"] | None = None) -> Picture:
        """As the prediction is drawn, with grey stripes where the model abstains."""
        picture = self.prediction.draw(image).clone()
        height, width = self.prediction_set.abstain.shape
        diagonal = torch.arange(height)[:, None] + torch.arange(width)
        stripes = self.prediction_set.abstain.cpu() & (diagonal // STRIPE_PX % 2 == 0)
        picture[:, stripes] = GREY
        return picture

    def draw_with(self, other: Any, image: Float[Tensor, "3 h w"]) -> tuple[Picture, ...]:
        """Return truth, prediction and error as the prediction draws them."""
        return self.prediction.draw_with(other, image)
