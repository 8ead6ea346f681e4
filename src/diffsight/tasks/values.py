"""Numbers per pixel: a scalar with a unit, metric depth, or a vector."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor
from torch.nn import functional

from diffsight.codecs import AbstractCodec
from diffsight.tasks.colour import depth_table, error_table, paint
from diffsight.tasks.dense import AbstractDense, picture, red, rgb
from diffsight.types import DepthPrediction, RawOutput, Target, ValuePrediction


class AbstractValues(AbstractDense):
    """Numbers per pixel: root mean square error over all pixels and channels with a label."""

    def measure(self, raw: RawOutput, target: Target) -> Float64[Tensor, "2"]:
        """Squared error and number."""
        gap = (self.value(raw) - target.label).double().square().mean(dim=1)[target.valid]
        return torch.stack([gap.sum(), target.valid.sum().double()])

    def score(self, sums: Float64[Tensor, "2"]) -> float:
        """Its root."""
        return float((sums[0] / sums[1]).sqrt())

    def constant(
        self, label: Float[Tensor, "b d h w"], valid: Bool[Tensor, "b h w"]
    ) -> Float[Tensor, " d"]:
        """The mean."""
        return label.movedim(1, -1)[valid].mean(dim=0)


class Scalars(AbstractValues):
    """A scalar with a unit; metric depth where ``depth``.

    Args:
        codec: bins.
        spread: standard deviation of the support's labels.
        unit: of the values.
        depth: metres along the optical axis.
        alpha: weight of the squared error.
    """

    def __init__(
        self,
        codec: AbstractCodec,
        *,
        spread: Float[Tensor, "1"],
        unit: str,
        depth: bool = False,
        alpha: float = 1.0,
    ) -> None:
        super().__init__(codec, alpha=alpha, spread=spread)
        self.unit = unit
        self.depth = depth
        self.score_name = f"RMSE, {unit}" if unit else "RMSE"

    def decode(self, raw: RawOutput) -> list[DepthPrediction | ValuePrediction]:
        """Values with the spread of their distribution."""
        value = self.value(raw).float()
        spread = self._spread_of(raw).float()
        if self.depth:
            valid = value[:, 0].isfinite() & (value[:, 0] > 0)
            return [
                DepthPrediction(one[0], sure, "z", std)
                for one, sure, std in zip(value, valid, spread, strict=True)
            ]
        return [
            ValuePrediction(one, one.isfinite().all(dim=0), self.unit, uncertainty=std)
            for one, std in zip(value, spread, strict=True)
        ]

    def draw(self, prediction: DepthPrediction | ValuePrediction) -> UInt8[Tensor, "3 h w"]:
        """Small is pale yellow, large dark blue, between the support's extremes."""
        value, valid = _scalar(prediction)
        low, high = self._range()
        return picture(paint((value - low) / (high - low), valid, depth_table()))

    def draw_error(
        self,
        truth: DepthPrediction | ValuePrediction,
        prediction: DepthPrediction | ValuePrediction,
    ) -> UInt8[Tensor, "3 h w"]:
        """Blue where too small, red where too large, full at a quarter of the range."""
        (a, known), (b, valid) = _scalar(truth), _scalar(prediction)
        low, high = self._range()
        return picture(paint(0.5 + 2 * (b - a) / (high - low), known & valid, error_table()))

    def _range(self) -> tuple[float, float]:
        assert self.codec.centres is not None
        return float(self.codec.centres.min()), float(self.codec.centres.max())


class Vectors(AbstractValues):
    """Several numbers per pixel without further meaning.

    Args:
        codec: words.
        spread: standard deviation of the support's labels, per channel.
        alpha: weight of the squared error.
    """

    score_name = "RMSE"

    def decode(self, raw: RawOutput) -> list[ValuePrediction]:
        """Values with the spread of their distribution."""
        value = self.value(raw).float()
        spread = self._spread_of(raw).float()
        return [
            ValuePrediction(one, one.isfinite().all(dim=0), "", uncertainty=std)
            for one, std in zip(value, spread, strict=True)
        ]

    def draw(self, prediction: ValuePrediction) -> UInt8[Tensor, "3 h w"]:
        """A colour channel per number, between the support's extremes."""
        assert self.codec.centres is not None
        low, high = self.codec.centres.min(dim=0).values, self.codec.centres.max(dim=0).values
        low, high = low[:, None, None], high[:, None, None]
        scaled = (prediction.values.cpu() - low) / (high - low).clamp(min=1e-12)
        return rgb(functional.pad(scaled, (0, 0, 0, 0, 0, 3 - len(scaled))), prediction.valid)

    def draw_error(
        self, truth: ValuePrediction, prediction: ValuePrediction
    ) -> UInt8[Tensor, "3 h w"]:
        """White to red, full at two standard deviations of the labels."""
        assert self.spread is not None
        gap = (prediction.values - truth.values).cpu() / self.spread[:, None, None]
        return red(gap.square().mean(dim=0).sqrt() / 2, truth.valid & prediction.valid)


def _scalar(prediction: DepthPrediction | ValuePrediction) -> tuple[np.ndarray, np.ndarray]:
    depth = isinstance(prediction, DepthPrediction)
    value = prediction.depth_m if depth else prediction.values[0]
    return value.detach().double().cpu().numpy(), prediction.valid.cpu().numpy()
