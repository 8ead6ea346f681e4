"""Directions per pixel, such as surface normals."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor
from torch.nn import functional

from diffsight.tasks.dense import AbstractDense, red, rgb
from diffsight.types import RawOutput, Target, ValuePrediction


class Directions(AbstractDense):
    """Unit vectors, such as surface normals: x right, y down, z forward. Mean angle in degrees.

    The squared error is that of the expected vector as it is; only the answer is brought to
    length 1.

    Args:
        codec: spherical words.
        spread: standard deviation of the support's labels, per channel.
        alpha: weight of the squared error.
    """

    score_name = "mean angle, °"

    def hflip(self, raw: RawOutput) -> RawOutput:
        """The value's x changes its sign; the distribution over words cannot."""
        raw = super().hflip(raw)
        value = self.value(raw) * torch.tensor([-1.0, 1.0, 1.0]).to(raw.maps)[:, None, None]
        return replace(raw, auxiliary={**raw.auxiliary, "value": value})

    def mirrored(self, label: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
        """X changes its sign."""
        return label.flip(-1) * torch.tensor([-1.0, 1.0, 1.0])[:, None, None]

    def decode(self, raw: RawOutput) -> list[ValuePrediction]:
        """Directions of the expected vectors, and the spread of their distribution."""
        value = self.value(raw).float()
        spread = self._spread_of(raw).float()
        units = functional.normalize(value, dim=1, eps=1e-6)
        return [
            ValuePrediction(one, one.isfinite().all(dim=0), "", True, std)
            for one, std in zip(units, spread, strict=True)
        ]

    def measure(self, raw: RawOutput, target: Target) -> Float64[Tensor, "2"]:
        """Angles in degrees and number."""
        found = functional.normalize(self.value(raw).double(), dim=1, eps=1e-6)
        cosine = (found * functional.normalize(target.label.double(), dim=1)).sum(dim=1)
        angle = torch.rad2deg(cosine.clamp(-1, 1).acos())[target.valid]
        return torch.stack([angle.sum(), target.valid.sum().double()])

    def score(self, sums: Float64[Tensor, "2"]) -> float:
        """Their mean."""
        return float(sums[0] / sums[1])

    def constant(
        self, label: Float[Tensor, "b 3 h w"], valid: Bool[Tensor, "b h w"]
    ) -> Float[Tensor, "3"]:
        """The mean direction."""
        return functional.normalize(label.movedim(1, -1)[valid].mean(dim=0), dim=0)

    def draw(self, prediction: ValuePrediction) -> UInt8[Tensor, "3 h w"]:
        """RGB = (x, y, z) from -1 to 1."""
        return rgb((prediction.values.cpu() + 1) / 2, prediction.valid)

    def draw_error(
        self, truth: ValuePrediction, prediction: ValuePrediction
    ) -> UInt8[Tensor, "3 h w"]:
        """White to red, full at 45 degrees."""
        cosine = (truth.values * prediction.values).sum(dim=0).clamp(-1, 1).cpu()
        return red(torch.rad2deg(cosine.acos()) / 45, truth.valid & prediction.valid)
