"""Scale-invariant logarithmic losses of depth (Eigen et al., 2014)."""

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.types import Masks

Depths = Float[Tensor, "b h w"]
OFFSET_M, MEAN_WEIGHT = 1e-3, 0.15  # of sigloss


def silog(
    prediction: Depths, target: Depths, valid: Masks, *, variance_focus: float = 0.5
) -> Float[Tensor, ""]:
    """``sqrt(mean(d**2) - variance_focus * mean(d)**2)`` with ``d = ln(target) - ln(prediction)``.

    The means run over the valid pixels of the whole batch, in float32 or better. There is no
    factor and no epsilon, as in VPD's released code; three corners need a word:

    * A prediction that is zero or negative counts as the smallest normal number (``ln`` about
      -87): a saturated sigmoid gives a large finite loss, and such a pixel has no gradient.
    * A perfect prediction has loss 0 and gradient 0: the root's infinite slope is left out.
    * Without a valid pixel the loss is 0, with a gradient of zeros.

    Args:
        prediction: metres, or any unit that ``target`` has too.
        target: the truth; values where ``valid`` is False are never read.
        valid: True where ``target`` is a positive number that counts.
        variance_focus: 1 ignores the overall scale, 0 gives the plain RMS of ``d``.
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    floor = torch.finfo(dtype).tiny
    log_prediction = prediction.to(dtype).clamp(min=floor).log()
    difference = torch.where(valid, target.to(dtype).log() - log_prediction, 0)
    count = valid.sum().clamp(min=1)
    mean = difference.sum() / count
    # the same number as in the docstring, written so that rounding cannot make it negative
    variance = torch.where(valid, difference - mean, 0).square().sum() / count
    square = variance + (1 - variance_focus) * mean.square()
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1).sqrt(), square)


def sigloss(prediction: Depths, target: Depths, valid: Masks) -> Float[Tensor, ""]:
    """``sqrt(var(d) + 0.15 mean(d)**2)``, ``d = ln(prediction + 1e-3) - ln(target + 1e-3)`` (DDP).

    The variance is divided by one less than the number of pixels. Gradients where ``d`` is the same
    everywhere, and the loss of fewer than two pixels, are 0.

    Args:
        prediction: metres, not negative.
        target: the truth; values where ``valid`` is False are never read.
        valid: True where ``target`` is a positive number that counts.
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    logs = [(depth.to(dtype).clamp(min=0) + OFFSET_M).log() for depth in (prediction, target)]
    difference = torch.where(valid, logs[0] - logs[1], 0)
    count = valid.sum()
    mean = difference.sum() / count.clamp(min=1)
    squares = torch.where(valid, difference - mean, 0).square().sum()
    square = squares / (count - 1).clamp(min=1) + MEAN_WEIGHT * mean.square()
    positive = (square > 0) & (count > 1)
    return torch.where(positive, torch.where(positive, square, 1).sqrt(), 0 * square)
