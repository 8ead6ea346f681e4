"""The measures of the few-shot benchmark: VTM's own beside the usual ones, and named apart.

VTM (Kim et al., ICLR 2023) calls its first measure RMSE and measures angles on encoded vectors; the
few-shot paper's tables hold figures of both kinds. ``docs/few_shot_metrics.md`` has the formulas.
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
# an invalid grey pixel decodes to 0.007; below half of the full length there is no direction
SHORTEST_DIRECTION = 0.5


class ValueErrors(SumMetric):
    """Errors of scalars and vectors, over all channels.

    ``compute`` gives scalars by name, in the unit of the task:

    * ``vtm_mae``: per image the sum of abs(p - g) over the valid pixels, divided by the number of
      ALL pixels and channels; then the mean over the images. VTM calls it RMSE,
    * ``mae_valid``: mean of abs(p - g) over the valid pixels of all images,
    * ``rmse_valid``: square root of the mean of (p - g)^2 over them.

    Nothing is clamped: VTM clips predictions to [0, 1] before it measures.

    Args:
        primary: what ``per_image`` gives.
    """

    def __init__(self, primary: Literal["vtm_mae", "rmse_valid"] = "vtm_mae") -> None:
        super().__init__(5)
        self.primary = primary

    def update(self, prediction: Maps, target: Maps, valid: Masks) -> None:
        """Add a batch in the unit of the task; what is not ``valid`` may hold anything.

        Raises:
            InputError: if a valid pixel is NaN or infinite.
        """
        errors = _errors(prediction, target, valid)
        vtm, images = errors.flatten(1).mean(dim=1).sum(), errors.new_tensor(len(errors))
        numbers = valid.sum() * errors.shape[1]
        self.sums += torch.stack([vtm, images, errors.sum(), errors.square().sum(), numbers])

    def compute(self) -> dict[str, Float64[Tensor, ""]]:
        """The errors by name.

        Raises:
            InputError: if no image had a valid pixel.
        """
        vtm, images, absolute, square, numbers = self.sums
        _require_some(numbers)
        return {
            "vtm_mae": vtm / images,
            "mae_valid": absolute / numbers,
            "rmse_valid": (square / numbers).sqrt(),
        }

    def per_image(self, prediction: Maps, target: Maps, valid: Masks) -> PerImage:
        """Each image's primary measure; 0 without a valid pixel.

        Raises:
            InputError: if a valid pixel is NaN or infinite.
        """
        errors = _errors(prediction, target, valid)
        if self.primary == "vtm_mae":
            return errors.flatten(1).mean(dim=1)
        numbers = valid.flatten(1).sum(dim=1).clamp(min=1) * errors.shape[1]
        return (errors.square().flatten(1).sum(dim=1) / numbers).sqrt()


class AngleErrors(SumMetric):
    """Angles between directions, in degrees.

    ``compute`` gives scalars by name:

    * ``merr_vtm``: VTM's. Vectors stay encoded as (v + 1) / 2 and are brought to length 1 so, which
      shrinks angles to about half; all pixels count, those without a direction too; mean
      per image, then over the images,
    * ``merr_true``: mean angle between the directions over the valid pixels of all images,
    * ``median_true``: their median, to 0.025 degrees,
    * ``below_11.25``, ``below_22.5``, ``below_30``: share of them with a smaller angle.

    A valid pixel whose target is shorter than 0.5 has no direction and does not count in the true
    ones (VTM's mask calls every pixel valid).

    Args:
        primary: what ``per_image`` gives.
    """

    histogram: Float64[Tensor, "3600"]

    def __init__(self, primary: Literal["merr_vtm", "merr_true"] = "merr_vtm") -> None:
        super().__init__(3)
        self.primary = primary
        bins = torch.zeros(180 * BINS_PER_DEGREE, dtype=torch.float64)
        self.add_state("histogram", bins, dist_reduce_fx="sum")

    def update(self, prediction: Vectors, target: Vectors, valid: Masks) -> None:
        """Add a batch of vectors with components in [-1, 1].

        Raises:
            InputError: if any pixel, valid or not, is NaN or infinite.
        """
        vtm = _vtm_angles(prediction, target)
        degrees = _angles(prediction, target)[_directed(target, valid)]
        images = vtm.new_tensor(len(vtm))
        self.sums += torch.stack([vtm.flatten(1).mean(dim=1).sum(), images, degrees.sum()])
        index = (degrees * BINS_PER_DEGREE).long().clamp(max=len(self.histogram) - 1)
        self.histogram += torch.bincount(index, minlength=len(self.histogram))

    def compute(self) -> dict[str, Float64[Tensor, ""]]:
        """The errors by name.

        Raises:
            InputError: if no image had a valid pixel.
        """
        count = self.histogram.sum()
        _require_some(count)
        vtm, images, degrees = self.sums
        below = self.histogram.cumsum(dim=0)
        middle = torch.searchsorted(below, count / 2) + 0.5
        errors = {
            "merr_vtm": vtm / images,
            "merr_true": degrees / count,
            "median_true": middle.double() / BINS_PER_DEGREE,
        }
        limits = (11.25, 22.5, 30.0)
        shares = {f"below_{x:g}": below[int(x * BINS_PER_DEGREE) - 1] / count for x in limits}
        return errors | shares

    def per_image(self, prediction: Vectors, target: Vectors, valid: Masks) -> PerImage:
        """Each image's primary measure; a ``merr_true`` without a valid pixel is 0.

        Raises:
            InputError: if any pixel, valid or not, is NaN or infinite.
        """
        if self.primary == "merr_vtm":
            return _vtm_angles(prediction, target).flatten(1).mean(dim=1)
        counts = _directed(target, valid)
        degrees = torch.where(counts, _angles(prediction, target), 0)
        return degrees.flatten(1).sum(dim=1) / counts.flatten(1).sum(dim=1).clamp(min=1)


class BinaryIoU(SumMetric):
    """Intersection over union of a foreground, both summed over the data set.

    VTM's measure of one class of its segmentation: ``iou`` where the foreground is the more
    probable, ``iou_vtm`` where its probability is above 0.2, as VTM asks of its sigmoid. A union of
    nothing counts as 1 pixel, so that a foreground which is neither there nor found gives 0.
    """

    thresholds: ClassVar[Mapping[str, float]] = {"iou": 0.5, "iou_vtm": 0.2}

    def __init__(self) -> None:
        super().__init__(2, len(self.thresholds))

    def update(self, prediction: Foreground, target: Foreground, valid: Masks) -> None:
        """Add a batch: the foreground's probability; 1 where it is and 0 elsewhere.

        Raises:
            InputError: if a valid pixel is NaN or infinite.
        """
        self.sums += self._areas(prediction, target, valid).sum(dim=-1)

    def compute(self) -> dict[str, Float64[Tensor, ""]]:
        """The measures by their names."""
        intersection, union = self.sums
        return dict(zip(self.thresholds, intersection / union.clamp(min=1), strict=True))

    def per_image(self, prediction: Foreground, target: Foreground, valid: Masks) -> PerImage:
        """Each image's own ``iou``.

        Raises:
            InputError: if a valid pixel is NaN or infinite.
        """
        intersection, union = self._areas(prediction, target, valid)
        return intersection[0] / union[0].clamp(min=1)

    def _areas(
        self, prediction: Tensor, target: Tensor, valid: Tensor
    ) -> Float64[Tensor, "2 thresholds b"]:
        """Return the pixels of intersection and union."""
        _require_finite(prediction, target, valid)
        there = (target[:, 0] > 0.5) & valid
        found = torch.stack([(prediction[:, 0] > t) & valid for t in self.thresholds.values()])
        return torch.stack([found & there, found | there]).flatten(3).sum(dim=3).double()


class ClassIoU(SumMetric):
    """Segmentation by one confusion matrix over the valid pixels of all images.

    ``compute`` gives ``miou``, the mean of intersection / union over the classes that occur in the
    truth; ``macc``, the mean over the same classes of the share of their pixels that are right;
    and ``aacc``, the share of all pixels that are right.

    Args:
        classes: their number; classes are 0, 1 ...
        invented: ``zero`` counts classes in ``miou`` that are predicted and never occur, with 0
            (mmsegmentation, and so the tables of ADE20K); ``skip`` leaves them out, so that methods
            are compared over the same classes.

    Attributes:
        categories: classes of each category, for ``category_miou``: the mean over the categories,
            within which confusions do not count (Cityscapes); default: none.
    """

    def __init__(self, classes: int, invented: Literal["skip", "zero"] = "skip") -> None:
        super().__init__(classes, classes)
        self.categories: tuple[tuple[int, ...], ...] = ()
        self.classes = classes
        self.invented = invented

    def update(self, prediction: Ids, target: Ids, valid: Masks) -> None:
        """Add a batch of class numbers; what is not ``valid`` may hold anything.

        Raises:
            InputError: if a valid pixel is no whole number from 0 to below ``classes``.
        """
        self.sums += self._confusions(prediction, target, valid).sum(dim=0)

    def compute(self) -> dict[str, Float64[Tensor, ""]]:
        """The measures by name.

        Raises:
            InputError: if no image had a valid pixel.
        """
        count = self.sums.sum()
        _require_some(count)
        there = self.sums.sum(dim=1)
        accuracy = self.sums.diagonal() / there.clamp(min=1)
        scores = {}
        if self.categories:
            member = self.sums.new_zeros(len(self.categories), self.classes)
            for row, classes in zip(member, self.categories, strict=True):
                row[list(classes)] = 1
            merged = _ious(member @ self.sums @ member.T, self.invented)
            scores = {"category_miou": merged.nanmean()}
        return scores | {
            "miou": self.per_class().nanmean(),
            "macc": accuracy.sum() / (there > 0).sum(),
            "aacc": self.sums.trace() / count,
        }

    def per_class(self) -> Float64[Tensor, " k"]:
        """Intersection / union of every class; ``miou`` is the mean of those that are not NaN."""
        return _ious(self.sums, self.invented)

    def per_image(self, prediction: Ids, target: Ids, valid: Masks) -> PerImage:
        """Each image's own ``miou``; 0 without a valid pixel.

        Raises:
            InputError: if a valid pixel is no whole number from 0 to below ``classes``.
        """
        confusions = self._confusions(prediction, target, valid)
        return _ious(confusions, self.invented).nanmean(dim=1).nan_to_num(0)

    def _confusions(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Rows are the truth's classes, columns the predicted ones; a matrix for every image."""
        for name, ids in (("prediction", prediction[:, 0]), ("truth", target[:, 0])):
            bad = ids[valid & ~((ids >= 0) & (ids < self.classes) & (ids == ids.round()))]
            if len(bad):
                raise InputError(
                    f"{len(bad)} valid pixels of the {name} are no class (first: {bad[0]:g}): "
                    f"use whole numbers from 0 to {self.classes - 1}"
                )
        pairs = target[:, 0].double() * self.classes + prediction[:, 0].double()
        counts = [
            torch.bincount(one[counted].long(), minlength=self.classes**2)
            for one, counted in zip(pairs, valid, strict=True)
        ]
        return torch.stack(counts).double().unflatten(1, (self.classes, self.classes))


def _require_some(count: Float64[Tensor, ""]) -> None:
    if count == 0:
        raise InputError("no image with a valid pixel was seen: check the labels and their mask")


def _require_finite(prediction: Maps, target: Maps, counted: Masks) -> None:
    for name, values in (("prediction", prediction), ("truth", target)):
        bad = int((counted & ~values.isfinite().all(dim=1)).sum())
        if bad:
            raise InputError(
                f"{bad} counted pixels of the {name} are NaN or infinite: give a number for every "
                "pixel that is scored"
            )


def _errors(prediction: Maps, target: Maps, valid: Masks) -> Float64[Tensor, "b d h w"]:
    """abs(p - g), and 0 where not valid."""
    _require_finite(prediction, target, valid)
    return torch.where(valid[:, None], (prediction.double() - target.double()).abs(), 0)


def _directed(target: Vectors, valid: Masks) -> Masks:
    return valid & (target.norm(dim=1) > SHORTEST_DIRECTION)


def _vtm_angles(prediction: Vectors, target: Vectors) -> Angles:
    return _angles((prediction.double() + 1) / 2, (target.double() + 1) / 2)


def _angles(prediction: Vectors, target: Vectors) -> Angles:
    """Degrees, exact for small angles too; 90 for a vector of no length."""
    _require_finite(prediction, target, torch.ones_like(target[:, 0], dtype=torch.bool))
    p = functional.normalize(prediction.double(), dim=1)
    g = functional.normalize(target.double(), dim=1)
    return 2 * torch.rad2deg(torch.atan2((p - g).norm(dim=1), (p + g).norm(dim=1)))


def _ious(confusion: Float64[Tensor, "*b k k"], invented: str) -> Float64[Tensor, "*b k"]:
    """Of every class; NaN for those that do not count."""
    right = confusion.diagonal(dim1=-2, dim2=-1)
    there, found = confusion.sum(dim=-1), confusion.sum(dim=-2)
    counts = there + found > 0 if invented == "zero" else there > 0
    return torch.where(counts, right / (there + found - right).clamp(min=1), torch.nan)
