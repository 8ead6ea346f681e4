"""Metrics of predicted uncertainty: sparsification error and calibration."""

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from diffsight.errors import InputError
from diffsight.metrics.sums import SumMetric
from diffsight.types import ErrorKind, PixelErrors

CONFIDENCE_BINS = 15  # bins of equal width, as in torchmetrics
LEVELS = tuple(k / 20 for k in range(1, 20))  # confidence levels of the central intervals
MOST_UNCERTAIN = 0.1  # fraction of the pixels for errors_in_top_10
Pixels = Float[Tensor, " m"]


class UncertaintyMetrics(SumMetric):
    """Measures how well uncertainties rank the errors of pixels, and how well they are calibrated.

    ``compute`` returns scalars by name:

    * ``ause``: area under the sparsification error (Ilg et al., ECCV 2018). The most uncertain
      pixels of an image are removed in steps of 1 %. The mean error of the remaining pixels is
      compared with the mean error if the pixels with the largest errors are removed instead. The
      difference is averaged over the steps, then over the images. 0 is perfect. The mean error is
      the error rate for classes, otherwise the root mean square error in the unit of the labels.
    * ``errors_in_top_10``: fraction of the errors (of the squared errors, except for classes) that
      lie in the most uncertain tenth of the pixels of every image; 0.1 is chance level. Missing if
      there is no error.
    * ``ece``: expected calibration error. For classes it is the mean distance between confidence
      and accuracy in 15 bins (Guo et al., ICML 2017). For numbers it is the mean distance between
      the level and the coverage of the central intervals of a normal distribution (Kuleshov et
      al., ICML 2018). Missing for vectors.

    Pixels with equal uncertainty are treated alike: each has the mean error of its group.

    Args:
        kind: kind of the predictions: ``classes``, ``number`` or ``vector``.
    """

    def __init__(self, kind: ErrorKind) -> None:
        counts = {"classes": 2 * CONFIDENCE_BINS, "number": len(LEVELS), "vector": 0}
        super().__init__(5 + counts[kind])
        self.kind: ErrorKind = kind

    def update(self, errors: PixelErrors, valid: Bool[Tensor, "h w"]) -> None:
        """Add one image.

        Args:
            errors: errors and uncertainties of the pixels of its prediction.
            valid: pixels that count.

        Raises:
            InputError: if an error or an uncertainty is not finite.
        """
        error, uncertainty = errors.error[valid].double(), errors.uncertainty[valid].double()
        if not len(error):
            return
        if not bool(error.isfinite().all()):
            raise InputError("a prediction is NaN or infinite at a labelled pixel: check the model")
        if not bool(uncertainty.isfinite().all()):
            raise InputError(
                "the uncertainty is missing at some pixels: use a plan whose views all cover the "
                "image, or a method that predicts an uncertainty"
            )
        is_class = self.kind == "classes"
        weight = error if is_class else error.square()
        ause, top = measure_sparsification(weight, uncertainty, is_root=not is_class)
        first = [ause, top, weight.sum(), torch.tensor(1.0), torch.tensor(len(error))]
        parts = [torch.stack([x.cpu().double() for x in first])]
        if is_class:
            assert errors.confidence is not None
            parts.append(_sum_by_confidence(error, errors.confidence[valid].double()))
        elif self.kind == "number":
            parts.append(_count_in_intervals(error, uncertainty))
        self.sums += torch.cat([part.to(self.sums) for part in parts])

    def compute(self) -> dict[str, Float64[Tensor, ""]]:
        """Return the metrics by name.

        Raises:
            InputError: if no valid pixel was seen.
        """
        ause, top, errors, images, pixels = self.sums[:5]
        if not pixels:
            raise InputError("no valid pixel was seen: check the labels")
        figures = {"ause": ause / images}
        if errors > 0:
            figures["errors_in_top_10"] = top / errors
        rest = self.sums[5:]
        if self.kind == "classes":
            correct, confidence = rest.unflatten(0, (2, CONFIDENCE_BINS))
            figures["ece"] = (correct - confidence).abs().sum() / pixels
        elif self.kind == "number":
            figures["ece"] = (rest / pixels - torch.tensor(LEVELS).to(rest)).abs().mean()
        return figures


def _sum_by_confidence(error: Pixels, confidence: Pixels) -> Float64[Tensor, " c"]:
    """Return the numbers of correct pixels in all bins, then the sums of their confidences."""
    number = (confidence * CONFIDENCE_BINS).long().clamp(0, CONFIDENCE_BINS - 1)
    rows = (1 - error, confidence)
    sums = [torch.bincount(number, weights=row, minlength=CONFIDENCE_BINS) for row in rows]
    return torch.cat(sums)


def _count_in_intervals(error: Pixels, std: Pixels) -> Float64[Tensor, " c"]:
    """Return the number of pixels whose error is inside the central interval of each level."""
    widths = torch.special.ndtri((1 + torch.tensor(LEVELS, dtype=torch.float64)) / 2).tolist()
    return torch.stack([(error <= width * std).double().sum() for width in widths])


def measure_sparsification(
    weight: Float64[Tensor, " m"], uncertainty: Pixels, *, is_root: bool
) -> tuple[Float64[Tensor, ""], Float64[Tensor, ""]]:
    """Return the area under the sparsification error, and the sum of the most uncertain errors.

    The sum is over the errors of the most uncertain tenth of the pixels.

    Args:
        weight: error of every pixel, or squared error with ``is_root``.
        uncertainty: uncertainty of every pixel.
        is_root: whether to compare square roots of the mean weights instead of the means.
    """
    ordered = _sort_by_uncertainty(weight, uncertainty)
    remaining, best = _means_of_remaining(ordered), _means_of_remaining(weight.sort()[0])
    if is_root:
        remaining, best = remaining.sqrt(), best.sqrt()
    certain = round((1 - MOST_UNCERTAIN) * len(weight))
    return (remaining - best).mean(), ordered[certain:].sum()


def _sort_by_uncertainty(
    weight: Float64[Tensor, " m"], uncertainty: Pixels
) -> Float64[Tensor, " m"]:
    """Return the errors, ordered from the most certain to the most uncertain pixel.

    Pixels with equal uncertainty all get the mean of their errors.
    """
    _, group, size = uncertainty.unique(return_inverse=True, return_counts=True)
    sums = weight.new_zeros(len(size)).index_add_(0, group, weight)
    return (sums / size).repeat_interleave(size)


def _means_of_remaining(ordered: Float64[Tensor, " m"]) -> Float64[Tensor, "100"]:
    """Return the mean errors after the last 0, 1, ... 99 % of the pixels are removed."""
    percent = 100 - torch.arange(100, device=ordered.device)
    counts = (len(ordered) * percent).div(100).ceil().long().clamp(min=1)
    return ordered.cumsum(dim=0)[counts - 1] / counts
