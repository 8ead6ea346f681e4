"""Numbers per pixel: a scalar with a unit, or several numbers without further meaning."""

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

from diffsight.choices import Spacing
from diffsight.codecs import ScalarBins, VectorCodebook
from diffsight.outputs import LabelCodec
from diffsight.tasks.colour import depth_table, error_table, paint
from diffsight.tasks.numbers import AbstractNumbers, Bins, bin_count
from diffsight.tasks.prediction import (
    Prediction,
    StoredArray,
    channels_first,
    draw_red,
    draw_rgb,
    rounded_fraction,
)

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
    ) -> None:
        default = VECTOR_BINS if channels > 1 else SCALAR_BINS
        codec: LabelCodec | None = None
        if bins is not None and channels == 1:
            codec = ScalarBins(bin_count(bins, default))
        elif bins is not None:
            count = bin_count(bins, default)
            codec = VectorCodebook(count, channels, simplices=simplices, spherical=False)
        super().__init__(channels=channels, alpha=alpha, codec=codec)
        self.unit = unit
        self.label = label
        self.bins: Bins | None = bins
        self.spacing: Spacing = spacing
        self.metric_name = f"RMSE, {unit}" if unit else "RMSE"
        self.is_mirrorable = channels == 1  # several numbers may point to a side

    def fitted(self, values: Float[Tensor, "m d"]) -> Self:
        """Return the task with bins or a codebook for these labels."""
        bins = self.bins or "auto"
        if self.channels == 1:
            count = bin_count(bins, SCALAR_BINS, values)
            codec = ScalarBins.fit(values, count, spacing=self.spacing).with_statistics(values)
            return self.with_codec(codec, bins=count)
        count = bin_count(bins, VECTOR_BINS, values)
        codebook = VectorCodebook.fit(values, count).with_statistics(values)
        return self.with_codec(codebook, bins=count, simplices=len(codebook.simplices))

    def prediction(
        self,
        values: Float[Tensor, "d h w"],
        std: Float[Tensor, "h w"] | None,
        valid: Bool[Tensor, "h w"] | None = None,
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
class ValuePrediction(Prediction):
    """Numbers of one image.

    Attributes:
        values: in ``unit``.
        valid: False where a value is not finite.
        unit: of the values, empty where they have none.
        uncertainty: standard deviation in ``unit``; root mean square over the channels.
        display: range of pictures.
    """

    values: Float[Tensor, "d h w"]
    valid: Bool[Tensor, "h w"]
    unit: str = ""
    uncertainty: Float[Tensor, "h w"] | None = None
    display: Display = field(default_factory=Display)
    kind = "values"

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.valid.shape
        return height, width

    def to_label(self) -> Float[Tensor, "d h w"]:
        """Return the numbers."""
        return self.values

    def arrays(self) -> dict[str, StoredArray]:
        """Return ``values`` (``h w`` or ``h w d``, NaN is unknown) and ``uncertainty``."""
        values = torch.where(self.valid, self.values, torch.nan).movedim(0, -1)
        values = values[..., 0] if values.shape[-1] == 1 else values
        found = {"values": StoredArray(values.cpu().numpy())}
        if self.uncertainty is not None:
            found["uncertainty"] = StoredArray(self.uncertainty.cpu().numpy())
        return found

    def metadata(self) -> dict[str, Any]:
        """Return size, unit and validity."""
        height, width = self.hw
        about: dict[str, Any] = {
            "size": [width, height],
            "unit": self.unit,
            "valid": rounded_fraction(self.valid),
        }
        if self.uncertainty is not None:
            about["uncertainty_is"] = "standard deviation of the predicted distribution"
        return about

    def draw(self, image: Float[Tensor, "3 h w"] | None = None) -> UInt8[Tensor, "3 h w"]:
        """A scalar from pale yellow (small) to dark blue; else a colour channel per number."""
        return self._draw(self._range())

    def draw_with(
        self, other: "ValuePrediction", image: Float[Tensor, "3 h w"]
    ) -> tuple[UInt8[Tensor, "3 h w"], ...]:
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

    def _draw(self, shown: tuple[Tensor, Tensor]) -> UInt8[Tensor, "3 h w"]:
        if len(self.values) == 1:
            low, high = (float(x) for x in shown)
            values, valid = self._numpy()
            return channels_first(paint((values - low) / (high - low), valid, depth_table()))
        low, high = (x[:, None, None] for x in shown)
        scaled = (self.values.cpu() - low) / (high - low).clamp(min=1e-12)
        return draw_rgb(functional.pad(scaled, (0, 0, 0, 0, 0, 3 - len(scaled))), self.valid)

    def _draw_error(
        self, other: "ValuePrediction", shown: tuple[Tensor, Tensor]
    ) -> UInt8[Tensor, "3 h w"]:
        if len(self.values) == 1:
            low, high = (float(x) for x in shown)
            (a, known), (b, found) = self._numpy(), other._numpy()
            known = known & found
            gap = np.subtract(b, a, where=known, out=np.zeros_like(a))
            return channels_first(paint(0.5 + 2 * gap / (high - low), known, error_table()))
        std = torch.tensor(self.display.std) if self.display.std else (shown[1] - shown[0]) / 4
        gap = (other.values - self.values).cpu() / std[:, None, None].clamp(min=1e-12)
        return draw_red(gap.square().mean(dim=0).sqrt() / 2, self.valid & other.valid)

    def _numpy(self) -> tuple[np.ndarray, np.ndarray]:
        return self.values[0].detach().double().cpu().numpy(), self.valid.cpu().numpy()
