"""Metrics of predicted uncertainty: sparsification error and calibration."""

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from diffsight.errors import InputError
from diffsight.metrics.sums import SumMetric
from diffsight.types import ErrorKind, PixelErrors

CONFIDENCE_BINS = 15  # of equal width, as in torchmetrics
LEVELS = tuple(k / 20 for k in range(1, 20))  # of central intervals
MOST_UNCERTAIN = 0.1  # fraction of the pixels
Pixels = Float[Tensor, " m"]


class UncertaintyMetrics(SumMetric):
    """The order of the uncertainties against that of the errors, and their calibration.

    ``compute`` gives scalars by name:

    * ``ause``: area under the sparsification error (Ilg et al., ECCV 2018). The most uncertain
      pixels of an image are left out, 1 % after another; the mean error of the rest is compared
      with that if the largest errors were left out. Mean over the fractions, then over the images.
      The error is 0 or 1 for classes, and the root mean square in the unit of the labels for
      numbers.
    * ``errors_in_top_10``: fraction of all errors (of their squares, for numbers) that the most
      uncertain tenth of the pixels of every image holds; 0.1 is chance level. Left out where there
      is no error.
    * ``ece``: expected calibration error, not of vectors. Of classes, the mean distance between
      confidence and accuracy in 15 bins (Guo et al., ICML 2017); of numbers, that between the level
      and the coverage of the central intervals of a normal distribution (Kuleshov et al., ICML
      2018).

    Pixels of equal uncertainty are left out together, at their mean error.

    Args:
        kind: of what is predicted.
    """

    def __init__(self, kind: ErrorKind) -> None:
        counts = {"classes": 2 * CONFIDENCE_BINS, "number": len(LEVELS), "vector": 0}
        super().__init__(5 + counts[kind])
        self.kind: ErrorKind = kind

    def update(self, doubts: PixelErrors, valid: Bool[Tensor, "h w"]) -> None:
        """Add one image.

        Args:
            doubts: of its prediction.
            valid: pixels that count.

        Raises:
            InputError: if an error or an uncertainty is not finite.
        """
        error, uncertainty = doubts.error[valid].double(), doubts.uncertainty[valid].double()
        if not len(error):
            return
        if not bool(error.isfinite().all()):
            raise InputError("a prediction is not finite where it has a label: check the model")
        if not bool(uncertainty.isfinite().all()):
            raise InputError(
                "the uncertainty is not known at every pixel: use a plan whose views all cover the "
                "image, or a method that predicts it"
            )
        is_class = self.kind == "classes"
        weight = error if is_class else error.square()
        ause, found = sparsification(weight, uncertainty, is_root=not is_class)
        first = [ause, found, weight.sum(), torch.tensor(1.0), torch.tensor(len(error))]
        parts = [torch.stack([x.cpu().double() for x in first])]
        if is_class:
            assert doubts.confidence is not None
            parts.append(_by_confidence(error, doubts.confidence[valid].double()))
        elif self.kind == "number":
            parts.append(_in_intervals(error, uncertainty))
        self.sums += torch.cat([part.to(self.sums) for part in parts])

    def compute(self) -> dict[str, Float64[Tensor, ""]]:
        """Return the figures.

        Raises:
            InputError: if no pixel was seen.
        """
        ause, found, errors, images, pixels = self.sums[:5]
        if not pixels:
            raise InputError("no valid pixel was seen: check the labels")
        figures = {"ause": ause / images}
        if errors > 0:
            figures["errors_in_top_10"] = found / errors
        rest = self.sums[5:]
        if self.kind == "classes":
            correct, confidence = rest.unflatten(0, (2, CONFIDENCE_BINS))
            figures["ece"] = (correct - confidence).abs().sum() / pixels
        elif self.kind == "number":
            figures["ece"] = (rest / pixels - torch.tensor(LEVELS).to(rest)).abs().mean()
        return figures


def _by_confidence(error: Pixels, confidence: Pixels) -> Float64[Tensor, " c"]:
    """Return the number of correct pixels, then the sum of the confidences, in every bin."""
    number = (confidence * CONFIDENCE_BINS).long().clamp(0, CONFIDENCE_BINS - 1)
    rows = (1 - error, confidence)
    sums = [torch.bincount(number, weights=row, minlength=CONFIDENCE_BINS) for row in rows]
    return torch.cat(sums)


def _in_intervals(error: Pixels, std: Pixels) -> Float64[Tensor, " c"]:
    """Return the number of pixels whose error is within the interval of every level."""
    widths = torch.special.ndtri((1 + torch.tensor(LEVELS, dtype=torch.float64)) / 2).tolist()
    return torch.stack([(error <= width * std).double().sum() for width in widths])


def sparsification(
    weight: Float64[Tensor, " m"], uncertainty: Pixels, *, is_root: bool
) -> tuple[Float64[Tensor, ""], Float64[Tensor, ""]]:
    """Return the area under the sparsification error, and the errors in the most uncertain tenth.

    Args:
        weight: error of every pixel, or its square.
        uncertainty: of every pixel.
        is_root: whether means are those of squares, of which roots are compared.
    """
    ordered = _in_order(weight, uncertainty)
    kept, best = _kept(ordered), _kept(weight.sort()[0])
    if is_root:
        kept, best = kept.sqrt(), best.sqrt()
    certain = round((1 - MOST_UNCERTAIN) * len(weight))
    return (kept - best).mean(), ordered[certain:].sum()


def _in_order(weight: Float64[Tensor, " m"], uncertainty: Pixels) -> Float64[Tensor, " m"]:
    """Return the errors, that of the most certain pixel first; equal ones have their mean."""
    _, group, size = uncertainty.unique(return_inverse=True, return_counts=True)
    sums = weight.new_zeros(len(size)).index_add_(0, group, weight)
    return (sums / size).repeat_interleave(size)


def _kept(ordered: Float64[Tensor, " m"]) -> Float64[Tensor, "100"]:
    """Return the mean error of what is left, without 0, 1, ... 99 % of the pixels at the end."""
    percent = 100 - torch.arange(100, device=ordered.device)
    counts = (len(ordered) * percent).div(100).ceil().long().clamp(min=1)
    return ordered.cumsum(dim=0)[counts - 1] / counts
