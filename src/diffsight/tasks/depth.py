"""Metric depth: the task, and its prediction in metres with a mask of valid pixels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from diffsight.choices import Spacing
from diffsight.errors import InputError
from diffsight.losses.silog import sigloss, silog
from diffsight.tasks.base import LabelMaps
from diffsight.tasks.colour import depth_table
from diffsight.tasks.numbers import AbstractNumbers, Bins, mean_map
from diffsight.tasks.prediction import Prediction, StoredArray, draw_error, draw_map
from diffsight.types import DepthType, Map, Maps, Mask, Picture, Target

# smallest ratio of far to near in the scale of a picture, so that noise does not look like a room
MIN_CONTRAST = 1.25
# the error picture has full colour where a pixel fails the metric d2
FULL_ERROR = 1.25**2
LARGEST_M = 65.535  # the largest depth that can be stored as 16 bits of millimetres
DEFAULT_BINS = 50  # as in few_shot, section 4


class Depth(AbstractNumbers):
    """Metric depth: one value per pixel in metres.

    An output of values is trained with a logarithmic loss, a distribution over bins as in few_shot
    (equation 5).

    Args:
        min_depth_m: smaller predictions are marked invalid.
        max_depth_m: larger predictions are marked invalid. It is also the upper bound of an output
            of values. None becomes twice the largest label when the bins are fitted.
        depth_type: kind of depth in the labels, ``z`` along the optical axis or ``euclidean`` along
            the ray; every prediction has it too.
        label: key of ``Sample.labels``, one channel in metres.
        bins: number of bins of a distribution over depth. ``auto`` is 50, or the number of
            different labels if that is smaller; None supports values only.
        spacing: spacing of the bins, see ``ScalarBins.fit``.
        alpha: weight of the squared error relative to the cross-entropy of a distribution.
        log_loss: loss of values, ``silog`` (VPD, EVP, Meta Prompts) or ``sigloss`` (DDP).

    Raises:
        InputError: unless 0 < ``min_depth_m`` < ``max_depth_m``, or if there are fewer than two
            bins.
    """

    metric_name = "RMSE, m"
    unit = "m"
    lower_bound = 0.0

    def __init__(
        self,
        *,
        min_depth_m: float = 1e-3,
        max_depth_m: float | None = 10.0,
        depth_type: DepthType = "z",
        label: str = "depth_m",
        bins: Bins | None = None,
        spacing: Spacing = "log",
        alpha: float = 1.0,
        log_loss: Literal["silog", "sigloss"] = "silog",
    ) -> None:
        if not 0 < min_depth_m < (max_depth_m or math.inf):
            raise InputError(
                f"need 0 < min_depth_m < max_depth_m, got {min_depth_m}, {max_depth_m}"
            )
        super().__init__(
            channels=1,
            label=label,
            bins=bins,
            default_bins=DEFAULT_BINS,
            alpha=alpha,
            spacing=spacing,
            bounds=None if max_depth_m is None else (0.0, max_depth_m),
        )
        self.log_loss: Literal["silog", "sigloss"] = log_loss
        self.min_depth_m = min_depth_m
        self.max_depth_m = max_depth_m
        self.depth_type: DepthType = depth_type

    def fitted(self, values: Float[Tensor, "m 1"]) -> Self:
        """Return the task with bins that are fitted to depths, and a range that covers them.

        Args:
            values: depths of all valid pixels of the training set, in metres.

        Raises:
            InputError: if no bins can be fitted to the depths.
        """
        task = super().fitted(values)
        assert task.codec is not None
        low, high = float(values.min()), float(values.max())
        return task.with_codec(
            task.codec,
            min_depth_m=min(self.min_depth_m, low / 2),
            max_depth_m=2 * high if self.max_depth_m is None else self.max_depth_m,
        )

    def value_loss(self, values: Maps, target: Target) -> dict[str, Tensor]:
        """Return the logarithmic loss over all valid pixels with a positive label.

        Training has no upper bound of the depth, as in VPD.
        """
        depth_m = target.label[:, 0]
        loss_of = silog if self.log_loss == "silog" else sigloss
        loss = loss_of(values[:, 0], depth_m, target.valid & (depth_m > 0))
        return {"loss": loss, self.log_loss: loss.detach()}

    def measure(self, label: Maps, target: Target) -> Float64[Tensor, "4"]:
        """Return four sums over the valid pixels.

        They are the squared errors, the number of pixels, the relative errors of positive labels,
        and the number of pixels whose ratio of prediction and label is below 1.25.
        """
        valid = target.valid[:, None]
        error = (label - target.label).double()[valid]
        depth_m, label_m = label.double()[valid], target.label.double()[valid]
        is_positive = label_m > 0
        ratio = torch.maximum(depth_m / label_m, label_m / depth_m)
        sums = [
            error.square().sum(),
            valid.sum().double(),
            (error.abs() / label_m)[is_positive].sum(),
            (is_positive & (depth_m > 0) & (ratio < 1.25)).sum().double(),
        ]
        return torch.stack(sums)

    def figures(self, sums: Float64[Tensor, "4"]) -> dict[str, float]:
        """Return RMSE in metres, the mean relative error AbsRel, and the accuracy d1 in [0, 1]."""
        rows = {"AbsRel": sums[2] / sums[1], "d1": sums[3] / sums[1]}
        return {self.metric_name: self.score(sums), **{k: float(v) for k, v in rows.items()}}

    def baselines(self, labels: LabelMaps) -> Mapping[str, Tensor]:
        """Return the median of all positive depths, and their mean at every pixel position.

        The names and shapes are those of ``mean_map``.
        """
        return mean_map(labels, positive=True)

    def prediction(
        self, values: Float[Tensor, "1 h w"], std: Map | None, valid: Mask | None = None
    ) -> "DepthPrediction":
        """Return the prediction for one image; its depth is not clamped to the task's range.

        Args:
            values: depth in metres.
            std: standard deviation in metres.
            valid: valid pixels of a label; default: pixels within the task's range. Pixels whose
                depth is not finite or not positive are never valid.
        """
        depth_m = values[0]
        if valid is None:
            # comparisons with NaN are False
            valid = (depth_m >= self.min_depth_m) & (depth_m <= (self.max_depth_m or math.inf))
        valid = valid & (depth_m > 0) & depth_m.isfinite()
        display_m = None
        if self.codec is not None:
            display_m = float(self.codec.centres.min()), float(self.codec.centres.max())
        return DepthPrediction(depth_m, valid, self.depth_type, std, display_m)


@dataclass(frozen=True)
class DepthPrediction(Prediction):
    """The predicted metric depth of one image.

    Attributes:
        depth_m: depth in metres.
        valid: False where the depth is not finite or outside the task's range.
        depth_type: ``z`` along the optical axis, or ``euclidean`` along the ray.
        uncertainty_m: standard deviation in metres. It is that of the predicted distribution, or
            that over a sampler's steps and seeds. For other methods it is that over the windows and
            flips of the image: NaN where fewer than two overlap, None if there is only one.
        display_m: lower and upper end of the colour scale of pictures in metres, which is then
            linear. None: a logarithmic scale from the 2nd to the 98th percentile.
    """

    depth_m: Map
    valid: Mask
    depth_type: DepthType
    uncertainty_m: Map | None = None
    display_m: tuple[float, float] | None = None
    unit = "m"
    kind = "depth"

    def to_label(self) -> Float[Tensor, "1 h w"]:
        """Return the depth in metres."""
        return self.depth_m[None]

    @property
    def std(self) -> Map | None:
        """The uncertainty in metres; None if there is none."""
        return self.uncertainty_m

    def arrays(self) -> dict[str, StoredArray]:
        """Return ``depth`` (16-bit millimetres, 0 is invalid) and ``uncertainty`` (metres).

        If a depth does not fit into 16 bits, there is a third array: ``metres`` has all depths as
        floats.
        """
        counts = (self.depth_m.double() * 1000).round()
        fits = self.valid & (counts > 0) & (counts <= 65535)
        values = torch.where(fits, counts, 0).to(torch.int32).cpu().numpy().astype(np.uint16)
        notes = {"depth_unit": "mm", "depth_invalid": "0"}
        arrays = {"depth": StoredArray(values, notes=notes)}
        if bool((self.valid & ~fits).any()):
            metres = torch.where(self.valid, self.depth_m, 0).float()
            arrays["metres"] = StoredArray(metres.cpu().numpy())
        if self.uncertainty_m is not None:
            arrays["uncertainty"] = StoredArray(self.uncertainty_m.cpu().numpy())
        return arrays

    def numbers(self) -> tuple[np.ndarray, str]:
        """Return the depth in metres; 0 is invalid."""
        return torch.where(self.valid, self.depth_m, 0).float().cpu().numpy(), self.unit

    def metadata(self) -> dict[str, Any]:
        """Return size (width, height), unit, scale, fraction of valid pixels, and depth range."""
        valid_m = self.depth_m[self.valid].double().cpu().numpy()
        low, median, high = (
            np.percentile(valid_m, [0, 50, 100]).round(4) if valid_m.size else [None] * 3
        )
        metadata: dict[str, Any] = {
            "size": list(self.hw[::-1]),
            "unit": "mm",
            "scale": 0.001,
            "scale_means": "metres per count",
            "invalid": 0,
            "depth_type": self.depth_type,
            "valid": round(valid_m.size / self.depth_m.numel(), 6),
            "beyond_range_fraction": round(
                float((valid_m > LARGEST_M).sum()) / self.depth_m.numel(), 6
            ),
            "depth_m": {"min": low, "median": median, "max": high},
        }
        if self.uncertainty_m is not None:
            std_m = torch.nanmedian(self.uncertainty_m).item()
            middle = round(std_m, 6) if math.isfinite(std_m) else None
            metadata["uncertainty_m"] = {"kind": "standard deviation", "median": middle}
        return metadata

    def draw(self, image: Float[Tensor, "3 h w"] | None = None) -> Picture:
        """Return the depth in colours: near pale yellow, far dark blue, invalid dark grey."""
        return self._draw(self._near_far_m())

    def draw_with(self, other: Any, image: Float[Tensor, "3 h w"]) -> tuple[Picture, ...]:
        """Return pictures of truth, prediction and error on the scale of the truth.

        The error is white where both agree, blue where the prediction is too near, and red where it
        is too far. Its colour is full from a factor of 1.25^2 on; on a linear scale, from a quarter
        of the range on.
        """
        near_far_m = self._near_far_m()
        return self._draw(near_far_m), other._draw(near_far_m), self._draw_error(other)

    def _near_far_m(self) -> tuple[float, float]:
        if self.display_m is not None:
            return self.display_m
        depth_m, valid = self._numpy()
        if not valid.any():
            return 1.0, MIN_CONTRAST
        near_m, far_m = np.percentile(depth_m[valid], [2, 98])
        widen = max(1.0, math.sqrt(MIN_CONTRAST * near_m / far_m))
        return float(near_m / widen), float(far_m * widen)

    def _draw(self, near_far_m: tuple[float, float]) -> Picture:
        depth_m, valid = self._numpy()
        near, far = near_far_m
        if self.display_m is None:
            depth_m, near, far = np.log(np.where(valid, depth_m, 1)), np.log(near), np.log(far)
        return draw_map((depth_m - near) / (far - near), valid, depth_table())

    def _draw_error(self, other: "DepthPrediction") -> Picture:
        (truth_m, truth_valid), (depth_m, depth_valid) = self._numpy(), other._numpy()
        valid = truth_valid & depth_valid
        if self.display_m is not None:
            low, high = self.display_m
            return draw_error(truth_m, depth_m, valid, (high - low) / 4)
        truth, depth = (np.log(np.where(valid, metres, 1)) for metres in (truth_m, depth_m))
        return draw_error(truth, depth, valid, math.log(FULL_ERROR))

    def _numpy(self) -> tuple[np.ndarray, np.ndarray]:
        return self.depth_m.detach().double().cpu().numpy(), self.valid.cpu().numpy()
