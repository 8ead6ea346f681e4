"""Values per pixel: a scalar with a unit, or several channels without further meaning."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from diffsight.choices import Spacing
from diffsight.tasks.colour import depth_table
from diffsight.tasks.numbers import AbstractNumbers, Bins
from diffsight.tasks.prediction import NumbersPrediction, draw_error, draw_map, draw_red, draw_rgb
from diffsight.types import Map, Mask, Picture

SCALAR_BINS, VECTOR_BINS = 20, 40  # as in few_shot, section 4


class Values(AbstractNumbers):
    """Values per pixel. The metric is the root mean squared error over pixels and channels.

    An output of values is trained with the squared error: in units of the labels' standard
    deviation if bins are fitted, else in the unit of the labels. A distribution is trained as in
    few_shot (equation 5).

    Args:
        channels: values per pixel: 1, or 2 or 3 for a codebook of vectors.
        unit: unit of the values.
        label: key of ``Sample.labels``.
        bins: number of classes of a distribution. ``auto`` is 20 bins of a scalar or 40 codebook
            vectors, or the number of different labels if that is smaller; None supports values
            only.
        spacing: spacing of a scalar's bins, see ``ScalarBins.fit``.
        alpha: weight of the squared error relative to the cross-entropy; infinity trains with the
            squared error alone.
        simplices: number of the codebook's simplices, set when it is fitted.
        hard_labels: encode a vector as the nearest codebook vector, not as a mixture of the
            vectors around it.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        unit: str = "",
        label: str = "values",
        bins: Bins | None = None,
        spacing: Spacing = "log1p",
        alpha: float = 1.0,
        simplices: int = 0,
        hard_labels: bool = False,
    ) -> None:
        super().__init__(
            channels=channels,
            label=label,
            bins=bins,
            default_bins=VECTOR_BINS if channels > 1 else SCALAR_BINS,
            alpha=alpha,
            spacing=spacing,
            simplices=simplices,
            hard_labels=hard_labels,
        )
        self.unit = unit
        self.metric_name = f"RMSE, {unit}" if unit else "RMSE"
        self.is_mirrorable = channels == 1  # several channels may be a direction to one side

    def prediction(
        self, values: Float[Tensor, "d h w"], std: Map | None, valid: Mask | None = None
    ) -> "ValuePrediction":
        """Return the prediction for one image.

        If ``valid`` is None, pixels with finite values are valid.
        """
        if valid is None:
            valid = values.isfinite().all(dim=0)
        return ValuePrediction(values, valid, self.unit, std, self._display())

    def _display(self) -> "Display":
        if self.codec is None:
            return Display()
        centres = self.codec.centres
        rows = (centres.min(dim=0).values, centres.max(dim=0).values, self.codec.label_std)
        return Display(*(tuple(row.tolist()) for row in rows))


@dataclass(frozen=True)
class Display:
    """Range of values in pictures, per channel. If it is empty, pictures use the values' own range.

    Attributes:
        low: lower end of the range.
        high: upper end of the range.
        std: standard deviation of the labels; the error of several channels is drawn in full colour
            at twice this.
    """

    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True)
class ValuePrediction(NumbersPrediction):
    """The predicted values of one image.

    Attributes:
        values: values in ``unit``.
        valid: False where a value is not finite.
        unit: unit of the values, empty if they have none.
        uncertainty: standard deviation in ``unit``, root mean square over the channels; None if
            unknown.
        display: range of values in pictures.
    """

    values: Float[Tensor, "d h w"]
    valid: Mask
    unit: str = ""
    uncertainty: Map | None = None
    display: Display = field(default_factory=Display)
    kind = "values"

    def draw(self, image: Float[Tensor, "3 h w"] | None = None) -> Picture:
        """Return a picture of the values scaled to the range ``display``.

        A scalar is drawn from pale yellow (small) to dark blue (large), several channels as RGB.

        Args:
            image: not used.
        """
        return self._draw(self._range())

    def draw_with(self, other: Any, image: Float[Tensor, "3 h w"]) -> tuple[Picture, ...]:
        """Return pictures of truth, prediction and error on the scale of the truth.

        The error of a scalar is blue where the prediction is too small and red where it is too
        large; the colour is full at a quarter of the range. The error of several channels is red;
        the colour is full at two standard deviations of the labels.
        """
        limits = self._range()
        return self._draw(limits), other._draw(limits), self._draw_error(other, limits)

    def _range(self) -> tuple[Tensor, Tensor]:
        if self.display.low:
            return torch.tensor(self.display.low), torch.tensor(self.display.high)
        valid = self.values[:, self.valid].cpu().float()
        if not valid.numel():
            return torch.zeros(len(self.values)), torch.ones(len(self.values))
        low, high = valid.min(dim=1).values, valid.max(dim=1).values
        return low, torch.maximum(high, low + 1e-12)

    def _draw(self, limits: tuple[Tensor, Tensor]) -> Picture:
        if len(self.values) == 1:
            low, high = (float(x) for x in limits)
            values, valid = self._numpy()
            return draw_map((values - low) / (high - low), valid, depth_table())
        low, high = (x[:, None, None] for x in limits)
        scaled = (self.values.cpu() - low) / (high - low).clamp(min=1e-12)
        return draw_rgb(functional.pad(scaled, (0, 0, 0, 0, 0, 3 - len(scaled))), self.valid)

    def _draw_error(self, other: "ValuePrediction", limits: tuple[Tensor, Tensor]) -> Picture:
        if len(self.values) == 1:
            low, high = (float(x) for x in limits)
            (truth, truth_valid), (prediction, valid) = self._numpy(), other._numpy()
            return draw_error(truth, prediction, truth_valid & valid, (high - low) / 4)
        std = torch.tensor(self.display.std) if self.display.std else (limits[1] - limits[0]) / 4
        error = (other.values - self.values).cpu() / std[:, None, None].clamp(min=1e-12)
        return draw_red(error.square().mean(dim=0).sqrt() / 2, self.valid & other.valid)

    def _numpy(self) -> tuple[np.ndarray, np.ndarray]:
        return self.values[0].detach().double().cpu().numpy(), self.valid.cpu().numpy()
