"""Metric depth: the SI-log loss, metres with their validity, and pictures of them."""

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diffsight.losses.silog import silog
from diffsight.tasks.base import AbstractTask
from diffsight.tasks.colour import depth_table, error_table, paint
from diffsight.types import DepthPrediction, DepthType, RawOutput, Target

# the narrowest scale of a picture, far / near: below it noise would look like a room
MIN_CONTRAST = 1.25
# the error picture has full colour where a pixel fails the metric d2
FULL_ERROR = 1.25**2


class MetricDepth(AbstractTask):
    """Depth in metres.

    Args:
        min_depth_m: a smaller prediction is marked invalid.
        max_depth_m: a larger prediction is marked invalid. The bound of the head is the head's own.
        depth_type: what the labels measure, carried into every prediction.
        label: key of ``Sample.labels``, one channel in metres.
    """

    num_outputs = 1

    def __init__(
        self,
        *,
        min_depth_m: float = 1e-3,
        max_depth_m: float = 10.0,
        depth_type: DepthType = "z",
        label: str = "depth_m",
    ) -> None:
        if not 0 < min_depth_m < max_depth_m:
            raise ValueError(
                f"need 0 < min_depth_m < max_depth_m, got {min_depth_m}, {max_depth_m}"
            )
        self.min_depth_m = min_depth_m
        self.max_depth_m = max_depth_m
        self.depth_type: DepthType = depth_type
        self.label = label

    def loss(self, raw: RawOutput, target: Target) -> dict[str, Tensor]:
        """SI-log over every pixel with a positive label: no upper bound in training, as in VPD."""
        depth_m = target.label[:, 0]
        loss = silog(_metres(raw), depth_m, target.valid & (depth_m > 0))
        return {"loss": loss, "silog": loss.detach()}

    def hflip(self, raw: RawOutput) -> RawOutput:
        """Depth moves with its pixel; no value changes."""
        auxiliary = {name: value.flip(-1) for name, value in raw.auxiliary.items()}
        std = None if raw.std is None else raw.std.flip(-1)
        return replace(raw, maps=raw.maps.flip(-1), auxiliary=auxiliary, std=std)

    def decode(self, raw: RawOutput) -> list[DepthPrediction]:
        """One prediction per image, not clamped; ``valid`` = finite and within the task's range."""
        predictions = [self._prediction(depth_m) for depth_m in _metres(raw).float().unbind()]
        if raw.std is None:
            return predictions
        pairs = zip(predictions, raw.std[:, 0].float().unbind(), strict=True)
        return [replace(prediction, uncertainty_m=std_m) for prediction, std_m in pairs]

    def truth(self, target: Target) -> list[DepthPrediction]:
        """The labels as perfect predictions, to draw or to compare with."""
        return [
            replace(self._prediction(depth_m), valid=valid & (depth_m > 0) & depth_m.isfinite())
            for depth_m, valid in zip(target.label[:, 0].float(), target.valid, strict=True)
        ]

    def draw(self, prediction: DepthPrediction) -> UInt8[Tensor, "3 h w"]:
        """Near is pale yellow, far dark blue, unknown dark grey.

        The scale is logarithmic, between the 2nd and the 98th percentile of the map itself.
        """
        return _draw(prediction, _near_far_m(prediction))

    def panel(
        self, image: Float[Tensor, "3 h w"], truth: DepthPrediction, prediction: DepthPrediction
    ) -> UInt8[Tensor, "3 h w4"]:
        """Image, truth, prediction and error side by side, ``w4 = 4 w``.

        Truth and prediction share the truth's scale (see ``draw``). The error is white where they
        agree, blue where the prediction is too near and red where it is too far, with full colour
        from a factor of 1.25^2 on.

        Args:
            image: RGB in [0, 1].
            truth: labels, see ``truth``.
            prediction: a prediction of the same size.
        """
        near_far_m = _near_far_m(truth)
        parts = (
            (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8),
            _draw(truth, near_far_m),
            _draw(prediction, near_far_m),
            _draw_error(truth, prediction),
        )
        return torch.cat(parts, dim=2)

    def _prediction(self, depth_m: Tensor) -> DepthPrediction:
        # NaN and infinities fail the comparisons
        valid = (depth_m >= self.min_depth_m) & (depth_m <= self.max_depth_m)
        return DepthPrediction(depth_m=depth_m, valid=valid, depth_type=self.depth_type)


def _metres(raw: RawOutput) -> Float[Tensor, "b h w"]:
    if raw.space != "value" or raw.maps.shape[1] != 1:
        raise ValueError(
            f"metric depth needs one channel in space 'value', got {raw.maps.shape[1]} in "
            f"{raw.space!r}: use a head that is bounded in metres"
        )
    return raw.maps[:, 0]


def _near_far_m(prediction: DepthPrediction) -> tuple[float, float]:
    depth_m, valid = _arrays(prediction)
    if not valid.any():
        return 1.0, MIN_CONTRAST
    near_m, far_m = np.percentile(depth_m[valid], [2, 98])
    widen = max(1.0, math.sqrt(MIN_CONTRAST * near_m / far_m))
    return float(near_m / widen), float(far_m * widen)


def _draw(prediction: DepthPrediction, near_far_m: tuple[float, float]) -> UInt8[Tensor, "3 h w"]:
    depth_m, valid = _arrays(prediction)
    near, far = np.log(near_far_m)
    scaled = (np.log(np.where(valid, depth_m, 1)) - near) / (far - near)
    return _tensor(paint(scaled, valid, depth_table()))


def _draw_error(truth: DepthPrediction, prediction: DepthPrediction) -> UInt8[Tensor, "3 h w"]:
    truth_m, truth_valid = _arrays(truth)
    depth_m, depth_valid = _arrays(prediction)
    valid = truth_valid & depth_valid
    error = np.log(np.where(valid, depth_m, 1)) - np.log(np.where(valid, truth_m, 1))
    return _tensor(paint(0.5 + 0.5 * error / math.log(FULL_ERROR), valid, error_table()))


def _arrays(prediction: DepthPrediction) -> tuple[np.ndarray, np.ndarray]:
    return (
        prediction.depth_m.detach().double().cpu().numpy(),
        prediction.valid.cpu().numpy(),
    )


def _tensor(picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[Tensor, "3 h w"]:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
