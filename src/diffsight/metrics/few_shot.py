"""The metrics of the few-shot benchmark, in the definitions of VTM's code and in the usual ones.

VTM (Kim et al., ICLR 2023) calls a mean absolute error RMSE, and measures angles between encoded
vectors. The tables of the few-shot paper mix both conventions, so each has its own name here.
``docs/few_shot_metrics.md`` has the formulas.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn import functional

from diffsight.errors import InputError
from diffsight.metrics.sums import SumMetric
from diffsight.types import Maps, Masks

Vectors = Float[Tensor, "b 3 h w"]
Foreground = Float[Tensor, "b 1 h w"]
Ids = Float[Tensor, "b 1 h w"] | Int[Tensor, "b 1 h w"]
PerImage = Float64[Tensor, " b"]
Angles = Float64[Tensor, "b h w"]

BINS_PER_DEGREE = 20
# A grey pixel, which marks a missing normal, decodes to a vector of length 0.007. Labels that are
# shorter than half of a unit vector have no direction.
MIN_DIRECTION_LENGTH = 0.5


class ValueErrors(SumMetric):
    """Errors of scalars and vectors, over all channels.

    ``compute`` returns scalars by name, in the unit of the task:

    * ``vtm_mae``: for each image the sum of abs(p - g) over the valid pixels, divided by the number
      of ALL pixels and channels; then the mean over the images. VTM calls it RMSE,
    * ``mae_valid``: mean of abs(p - g) over the valid pixels of all images,
    * ``rmse_valid``: square root of the mean of (p - g)^2 over the same pixels.

    Predictions are not clipped; VTM clips them to [0, 1] first.

    Args:
        primary: name of the metric that ``per_image`` returns.
    """

    def __init__(self, primary: Literal["vtm_mae", "rmse_valid"] = "vtm_mae") -> None:
        super().__init__(5)
        self.primary = primary

    def update(self, prediction: Maps, target: Maps, valid: Masks) -> None:
        """Add a batch.

        Args:
            prediction: predicted values in the unit of the task.
            target: true values; pixels where ``valid`` is False are never read.
            valid: pixels that count.

        Raises:
            InputError: if a valid pixel is NaN or infinite.
        """
        errors = _absolute_errors(prediction, target, valid)
        vtm, images = errors.flatten(1).mean(dim=1).sum(), errors.new_tensor(len(errors))
        numbers = valid.sum() * errors.shape[1]
        self.sums += torch.stack([vtm, images, errors.sum(), errors.square().sum(), numbers])

    def compute(self) -> dict[str, Float64[Tensor, ""]]:
        """Return the errors by name.

        Raises:
            InputError: if no image had a valid pixel.
        """
        vtm, images, absolute, square, numbers = self.sums
        _require_valid_pixels(numbers)
        return {
            "vtm_mae": vtm / images,
            "mae_valid": absolute / numbers,
            "rmse_valid": (square / numbers).sqrt(),
        }

    def per_image(self, prediction: Maps, target: Maps, valid: Masks) -> PerImage:
        """Return the primary metric of each image; 0 without a valid pixel.

        Raises:
            InputError: if a valid pixel is NaN or infinite.
        """
        errors = _absolute_errors(prediction, target, valid)
        if self.primary == "vtm_mae":
            return errors.flatten(1).mean(dim=1)
        numbers = valid.flatten(1).sum(dim=1).clamp(min=1) * errors.shape[1]
        return (errors.square().flatten(1).sum(dim=1) / numbers).sqrt()


class AngleErrors(SumMetric):
    """Angles between directions, in degrees.

    ``compute`` returns scalars by name:

    * ``merr_vtm``: mean angle as in VTM's code, averaged per image and then over the images. The
      vectors are encoded as (v + 1) / 2 and then normalised, which shrinks angles to about half.
      All pixels count, also those without a direction,
    * ``merr_true``: mean angle between the directions over the valid pixels of all images,
    * ``median_true``: median of the same angles, to 0.025 degrees,
    * ``below_11.25``, ``below_22.5``, ``below_30``: fraction of the angles that are smaller.

    A valid pixel whose target is shorter than 0.5 has no direction and does not count, except in
    ``merr_vtm`` (VTM's mask marks every pixel as valid).

    Args:
        primary: name of the metric that ``per_image`` returns.
    """

    histogram: Float64[Tensor, "3600"]

    def __init__(self, primary: Literal["merr_vtm", "merr_true"] = "merr_vtm") -> None:
        super().__init__(3)
        self.primary = primary
        bins = torch.zeros(180 * BINS_PER_DEGREE, dtype=torch.float64)
        self.add_state("histogram", bins, dist_reduce_fx="sum")

    def update(self, prediction: Vectors, target: Vectors, valid: Masks) -> None:
        """Add a batch.

        Args:
            prediction: predicted vectors with components in [-1, 1].
            target: true vectors with components in [-1, 1].
            valid: pixels with a label.

        Raises:
            InputError: if any pixel, valid or not, is NaN or infinite.
        """
        vtm = _vtm_angles(prediction, target)
        degrees = _angles(prediction, target)[_has_direction(target, valid)]
        images = vtm.new_tensor(len(vtm))
        self.sums += torch.stack([vtm.flatten(1).mean(dim=1).sum(), images, degrees.sum()])
        index = (degrees * BINS_PER_DEGREE).long().clamp(max=len(self.histogram) - 1)
        self.histogram += torch.bincount(index, minlength=len(self.histogram))

    def compute(self) -> dict[str, Float64[Tensor, ""]]:
        """Return the errors by name.

        Raises:
            InputError: if no image had a valid pixel.
        """
        count = self.histogram.sum()
        _require_valid_pixels(count)
        vtm, images, degrees = self.sums
        below = self.histogram.cumsum(dim=0)
        middle = torch.searchsorted(below, count / 2) + 0.5
        errors = {
            "merr_vtm": vtm / images,
            "merr_true": degrees / count,
            "median_true": middle.double() / BINS_PER_DEGREE,
        }
        limits = (11.25, 22.5, 30.0)
        fractions = {f"below_{x:g}": below[int(x * BINS_PER_DEGREE) - 1] / count for x in limits}
        return errors | fractions

    def per_image(self, prediction: Vectors, target: Vectors, valid: Masks) -> PerImage:
        """Return the primary metric of each image; ``merr_true`` is 0 without a valid pixel.

        Raises:
            InputError: if any pixel, valid or not, is NaN or infinite.
        """
        if self.primary == "merr_vtm":
            return _vtm_angles(prediction, target).flatten(1).mean(dim=1)
        has_direction = _has_direction(target, valid)
        degrees = torch.where(has_direction, _angles(prediction, target), 0)
        return degrees.flatten(1).sum(dim=1) / has_direction.flatten(1).sum(dim=1).clamp(min=1)


class BinaryIoU(SumMetric):
    """Intersection over union of a foreground class; both areas are summed over the data set.

    VTM scores each class of its segmentation this way. ``iou`` counts pixels whose probability is
    above 0.5 as foreground, ``iou_vtm`` those above 0.2, the threshold of VTM's sigmoid. An empty
    union counts as 1 pixel, so the IoU is 0 if the foreground neither occurs nor is predicted.
    """

    thresholds: ClassVar[Mapping[str, float]] = {"iou": 0.5, "iou_vtm": 0.2}

    def __init__(self) -> None:
        super().__init__(2, len(self.thresholds))

    def update(self, prediction: Foreground, target: Foreground, valid: Masks) -> None:
        """Add a batch.

        Args:
            prediction: probability of the foreground, in [0, 1].
            target: 1 in the foreground, 0 elsewhere.
            valid: pixels that count.

        Raises:
            InputError: if a valid pixel is NaN or infinite.
        """
        self.sums += self._areas(prediction, target, valid).sum(dim=-1)

    def compute(self) -> dict[str, Float64[Tensor, ""]]:
        """Return ``iou`` and ``iou_vtm``, in [0, 1]."""
        intersection, union = self.sums
        return dict(zip(self.thresholds, intersection / union.clamp(min=1), strict=True))

    def per_image(self, prediction: Foreground, target: Foreground, valid: Masks) -> PerImage:
        """Return the ``iou`` of each image.

        Raises:
            InputError: if a valid pixel is NaN or infinite.
        """
        intersection, union = self._areas(prediction, target, valid)
        return intersection[0] / union[0].clamp(min=1)

    def _areas(
        self, prediction: Tensor, target: Tensor, valid: Tensor
    ) -> Float64[Tensor, "2 thresholds b"]:
        """Return the areas of intersection and union in pixels, for each threshold and image."""
        _require_finite(prediction, target, valid)
        truth = (target[:, 0] > 0.5) & valid
        predicted = torch.stack([(prediction[:, 0] > t) & valid for t in self.thresholds.values()])
        areas = torch.stack([predicted & truth, predicted | truth])
        return areas.flatten(3).sum(dim=3).double()


class ClassIoU(SumMetric):
    """Segmentation metrics from one confusion matrix over the valid pixels of all images.

    ``compute`` returns scalars by name, in [0, 1]:

    * ``miou``: mean of intersection / union over the classes that occur in the target,
    * ``macc``: mean over the same classes of the fraction of their pixels that are correct,
    * ``aacc``: fraction of all pixels that are correct,
    * ``category_miou``: mean IoU of categories, only with ``categories``.

    Args:
        classes: number of classes; class ids are 0 to ``classes - 1``.
        false_positive_classes: how ``miou`` counts a class that is predicted but never occurs:
            ``zero`` gives it an IoU of 0 (as mmsegmentation does for the tables of ADE20K);
            ``skip`` leaves it out, so that all methods are compared over the same classes.

    Attributes:
        categories: class ids of each category. Confusions within a category count as correct
            (Cityscapes). Default: no categories.
    """

    def __init__(
        self, classes: int, false_positive_classes: Literal["skip", "zero"] = "skip"
    ) -> None:
        super().__init__(classes, classes)
        self.categories: tuple[tuple[int, ...], ...] = ()
        self.classes = classes
        self.false_positive_classes = false_positive_classes

    def update(self, prediction: Ids, target: Ids, valid: Masks) -> None:
        """Add a batch.

        Args:
            prediction: predicted class ids.
            target: true class ids; pixels where ``valid`` is False are never read.
            valid: pixels that count.

        Raises:
            InputError: if a valid pixel is not a whole number from 0 to ``classes - 1``.
        """
        self.sums += self._confusions(prediction, target, valid).sum(dim=0)

    def compute(self) -> dict[str, Float64[Tensor, ""]]:
        """Return the metrics by name.

        Raises:
            InputError: if no image had a valid pixel.
        """
        count = self.sums.sum()
        _require_valid_pixels(count)
        truth = self.sums.sum(dim=1)
        accuracy = self.sums.diagonal() / truth.clamp(min=1)
        scores = {}
        if self.categories:
            member = self.sums.new_zeros(len(self.categories), self.classes)
            for row, classes in zip(member, self.categories, strict=True):
                row[list(classes)] = 1
            merged = _ious(member @ self.sums @ member.T, self.false_positive_classes)
            scores = {"category_miou": merged.nanmean()}
        return scores | {
            "miou": self.per_class().nanmean(),
            "macc": accuracy.sum() / (truth > 0).sum(),
            "aacc": self.sums.trace() / count,
        }

    def per_class(self) -> Float64[Tensor, " k"]:
        """Return the IoU of every class; NaN for a class that ``miou`` does not count."""
        return _ious(self.sums, self.false_positive_classes)

    def per_image(self, prediction: Ids, target: Ids, valid: Masks) -> PerImage:
        """Return the ``miou`` of each image; 0 without a valid pixel.

        Raises:
            InputError: if a valid pixel is not a whole number from 0 to ``classes - 1``.
        """
        confusions = self._confusions(prediction, target, valid)
        return _ious(confusions, self.false_positive_classes).nanmean(dim=1).nan_to_num(0)

    def _confusions(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return a confusion matrix for every image: true classes in rows, predicted in columns."""
        for name, ids in (("prediction", prediction[:, 0]), ("truth", target[:, 0])):
            bad = ids[valid & ~((ids >= 0) & (ids < self.classes) & (ids == ids.round()))]
            if len(bad):
                raise InputError(
                    f"{len(bad)} valid pixels of the {name} are not a class (first: {bad[0]:g}): "
                    f"use whole numbers from 0 to {self.classes - 1}"
                )
        pairs = target[:, 0].double() * self.classes + prediction[:, 0].double()
        counts = [
            torch.bincount(one[counted].long(), minlength=self.classes**2)
            for one, counted in zip(pairs, valid, strict=True)
        ]
        return torch.stack(counts).double().unflatten(1, (self.classes, self.classes))


def _require_valid_pixels(count: Float64[Tensor, ""]) -> None:
    if count == 0:
        raise InputError("no image with a valid pixel was seen: check the labels and their mask")


def _require_finite(prediction: Maps, target: Maps, counted: Masks) -> None:
    for name, values in (("prediction", prediction), ("truth", target)):
        bad = int((counted & ~values.isfinite().all(dim=1)).sum())
        if bad:
            raise InputError(
                f"{bad} scored pixels of the {name} are NaN or infinite: give a finite number for "
                "every pixel that is scored"
            )


def _absolute_errors(prediction: Maps, target: Maps, valid: Masks) -> Float64[Tensor, "b d h w"]:
    """Return abs(p - g); 0 at pixels that are not valid."""
    _require_finite(prediction, target, valid)
    return torch.where(valid[:, None], (prediction.double() - target.double()).abs(), 0)


def _has_direction(target: Vectors, valid: Masks) -> Masks:
    return valid & (target.norm(dim=1) > MIN_DIRECTION_LENGTH)


def _vtm_angles(prediction: Vectors, target: Vectors) -> Angles:
    return _angles((prediction.double() + 1) / 2, (target.double() + 1) / 2)


def _angles(prediction: Vectors, target: Vectors) -> Angles:
    """Return angles in degrees, accurate even if small; 90 if a vector has length 0."""
    _require_finite(prediction, target, torch.ones_like(target[:, 0], dtype=torch.bool))
    p = functional.normalize(prediction.double(), dim=1)
    g = functional.normalize(target.double(), dim=1)
    return 2 * torch.rad2deg(torch.atan2((p - g).norm(dim=1), (p + g).norm(dim=1)))


def _ious(
    confusion: Float64[Tensor, "*b k k"], false_positive_classes: str
) -> Float64[Tensor, "*b k"]:
    """Return the IoU of every class; NaN for a class that is left out of the mean.

    A class that is neither labelled nor predicted is left out. One that is predicted but not
    labelled counts as 0 if ``false_positive_classes`` is ``"zero"``, otherwise it is left out.
    """
    correct = confusion.diagonal(dim1=-2, dim2=-1)
    truth, predicted = confusion.sum(dim=-1), confusion.sum(dim=-2)
    counts = truth + predicted > 0 if false_positive_classes == "zero" else truth > 0
    return torch.where(counts, correct / (truth + predicted - correct).clamp(min=1), torch.nan)
