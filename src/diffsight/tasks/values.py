"""Numbers per pixel: a scalar with a unit, or several numbers without further meaning."""

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
from diffsight.tasks.prediction import NumbersPrediction, draw_gap, draw_map, draw_red, draw_rgb
from diffsight.types import Map, Mask, Picture

SCALAR_BINS, VECTOR_BINS = 20, 40  # few_shot, section 4


class Values(AbstractNumbers):
    """Numbers per pixel; root mean square error over all pixels and channels with a label.

    Values are learned by the squared error in units of the labels' standard deviation (where bins
    were fitted, else in the unit of the labels), a distribution as in few_shot (equation 5).

    Args:
        channels: numbers per pixel: 1, or 2 or 3 for a codebook of vectors.
        unit: of the numbers.
        label: key of ``Sample.labels``.
        bins: classes of a distribution; ``auto`` is 20 bins of a scalar or 40 codebook vectors, or
            as many as there are different labels; None offers values alone.
        spacing: of the bins of a scalar, see ``ScalarBins.fit``.
        alpha: weight of the squared error beside the cross-entropy; infinity leaves it alone.
        simplices: of the codebook; set when it is fitted.
        hard_labels: several numbers become the nearest codebook vector, not a mixture of those
            around them.
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
        self.is_mirrorable = channels == 1  # several numbers may point to a side

    def prediction(
        self, values: Float[Tensor, "d h w"], std: Map | None, valid: Mask | None = None
    ) -> "ValuePrediction":
        """Return the numbers; ``valid`` is finite."""
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
    """Range of pictures, per channel; empty: that of the values themselves.

    Attributes:
        low: of the range.
        high: of the range.
        std: the error of several channels has full colour at twice this.
    """

    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True)
class ValuePrediction(NumbersPrediction):
    """Numbers of one image.

    Attributes:
        values: in ``unit``.
        valid: False where a value is not finite.
        unit: of the values, empty where they have none.
        uncertainty: standard deviation in ``unit``; root mean square over the channels.
        display: range of pictures.
    """

    values: Float[Tensor, "d h w"]
    valid: Mask
    unit: str = ""
    uncertainty: Map | None = None
    display: Display = field(default_factory=Display)
    kind = "values"

    def draw(self, image: Float[Tensor, "3 h w"] | None = None) -> Picture:
        """A scalar from pale yellow (small) to dark blue; else a colour channel per number."""
        return self._draw(self._range())

    def draw_with(self, other: Any, image: Float[Tensor, "3 h w"]) -> tuple[Picture, ...]:
        """Return truth, prediction and error on the truth's scale.

        The error of a scalar is blue where it is too small and red where it is too large, with full
        colour at a quarter of the range; of several channels it is red, full at two standard
        deviations of the labels.
        """
        shown = self._range()
        return self._draw(shown), other._draw(shown), self._draw_error(other, shown)

    def _range(self) -> tuple[Tensor, Tensor]:
        if self.display.low:
            return torch.tensor(self.display.low), torch.tensor(self.display.high)
        known = self.values[:, self.valid].cpu().float()
        if not known.numel():
            return torch.zeros(len(self.values)), torch.ones(len(self.values))
        low, high = known.min(dim=1).values, known.max(dim=1).values
        return low, torch.maximum(high, low + 1e-12)

    def _draw(self, shown: tuple[Tensor, Tensor]) -> Picture:
        if len(self.values) == 1:
            low, high = (float(x) for x in shown)
            values, valid = self._numpy()
            return draw_map((values - low) / (high - low), valid, depth_table())
        low, high = (x[:, None, None] for x in shown)
        scaled = (self.values.cpu() - low) / (high - low).clamp(min=1e-12)
        return draw_rgb(functional.pad(scaled, (0, 0, 0, 0, 0, 3 - len(scaled))), self.valid)

    def _draw_error(self, other: "ValuePrediction", shown: tuple[Tensor, Tensor]) -> Picture:
        if len(self.values) == 1:
            low, high = (float(x) for x in shown)
            (truth, known), (prediction, found) = self._numpy(), other._numpy()
            return draw_gap(truth, prediction, known & found, (high - low) / 4)
        std = torch.tensor(self.display.std) if self.display.std else (shown[1] - shown[0]) / 4
        gap = (other.values - self.values).cpu() / std[:, None, None].clamp(min=1e-12)
        return draw_red(gap.square().mean(dim=0).sqrt() / 2, self.valid & other.valid)

    def _numpy(self) -> tuple[np.ndarray, np.ndarray]:
        return self.values[0].detach().double().cpu().numpy(), self.valid.cpu().numpy()
