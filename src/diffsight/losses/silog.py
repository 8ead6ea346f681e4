"""Scale-invariant logarithmic losses of depth (Eigen et al., 2014)."""

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.types import Masks

Depths = Float[Tensor, "b h w"]
OFFSET_M, MEAN_WEIGHT = 1e-3, 0.15  # constants of ``sigloss``


def silog(
    prediction: Depths, target: Depths, valid: Masks, *, variance_focus: float = 0.5
) -> Float[Tensor, ""]:
    """Return the scale-invariant logarithmic loss of a batch.

    It is ``sqrt(mean(d**2) - variance_focus * mean(d)**2)`` with ``d = ln(target) -
    ln(prediction)``. The means are taken over the valid pixels of the whole batch, in float32 or
    better. There is no factor and no epsilon, as in VPD's released code. Three special cases:

    * A prediction of 0 or less counts as the smallest normal number, whose logarithm is about -87.
      A saturated sigmoid thus gives a large finite loss, and its pixel has no gradient.
    * A perfect prediction has loss 0 and gradient 0, although the slope of the root is infinite.
    * Without a valid pixel the loss and its gradient are 0.

    Args:
        prediction: predicted depth in metres, or in the unit of ``target``.
        target: true depth; pixels where ``valid`` is False are never read.
        valid: pixels that count; ``target`` must be positive there.
        variance_focus: 1 ignores the overall scale, 0 gives the root mean square of ``d``.
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    smallest = torch.finfo(dtype).tiny
    log_prediction = prediction.to(dtype).clamp(min=smallest).log()
    difference = torch.where(valid, target.to(dtype).log() - log_prediction, 0)
    count = valid.sum().clamp(min=1)
    mean = difference.sum() / count
    # equal to the formula of the docstring, but rounding cannot make it negative
    variance = torch.where(valid, difference - mean, 0).square().sum() / count
    square = variance + (1 - variance_focus) * mean.square()
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1).sqrt(), square)


def sigloss(prediction: Depths, target: Depths, valid: Masks) -> Float[Tensor, ""]:
    """Return the scale-invariant logarithmic loss of DDP.

    It is ``sqrt(var(d) + 0.15 * mean(d)**2)`` with ``d = ln(prediction + 1e-3) -
    ln(target + 1e-3)`` and the unbiased variance over the valid pixels of the batch. The gradient
    is 0 if ``d`` is the same at every pixel. The loss is 0 if there are fewer than two pixels.

    Args:
        prediction: predicted depth in metres, not negative.
        target: true depth in metres; pixels where ``valid`` is False are never read.
        valid: pixels that count; ``target`` must be positive there.
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
