"""Directions per pixel, such as surface normals."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor
from torch.nn import functional

from diffsight.codecs import VectorCodebook
from diffsight.outputs import Distribution, Moments, Output, Values
from diffsight.tasks.base import unsupported
from diffsight.tasks.numbers import AbstractNumbers, Bins, bin_count
from diffsight.tasks.prediction import (
    Prediction,
    StoredArray,
    draw_red,
    draw_rgb,
    rounded_fraction,
)
from diffsight.types import Target

DEFAULT_BINS = 40  # few_shot, section 4
FULL_ERROR_DEG = 45.0  # full colour of the error picture
MIRROR = torch.tensor([-1.0, 1.0, 1.0])


class Normals(AbstractNumbers):
    """Unit vectors: x right, y down, z forward. The metric is the mean angle in degrees.

    The squared error is that of the expected vector as it is; only predictions are brought to
    length 1.

    Args:
        label: key of ``Sample.labels``, three channels.
        bins: vectors of a codebook on the sphere; ``auto`` is 40, or as many as there are different
            labels; None offers values alone.
        alpha: weight of the squared error beside the cross-entropy; infinity leaves it alone.
        simplices: triangles of the codebook; set when it is fitted.
    """

    metric_name = "mean angle, °"

    def __init__(
        self,
        *,
        label: str = "normals",
        bins: Bins | None = None,
        alpha: float = 1.0,
        simplices: int = 0,
    ) -> None:
        codec = None
        if bins is not None:
            count = bin_count(bins, DEFAULT_BINS)
            codec = VectorCodebook(count, 3, simplices=simplices, spherical=True)
        super().__init__(channels=3, alpha=alpha, codec=codec)
        self.label = label
        self.bins: Bins | None = bins

    def fitted(self, values: Float[Tensor, "m 3"]) -> Self:
        """Return the task with a codebook for these directions."""
        count = bin_count(self.bins or "auto", DEFAULT_BINS, values)
        codec = VectorCodebook.fit(values, count, spherical=True).with_statistics(values)
        return self.with_codec(codec, bins=count, simplices=len(codec.simplices))

    def mirror_label(self, label: Float[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b 3 h w"]:
        """Mirror the grid and change the sign of x."""
        return label.flip(-1) * MIRROR.to(label)[:, None, None]

    def mirror_output(self, output: Output) -> Output:
        """Mirror the grid and change the sign of x, in a distribution that of its moments."""
        match output:
            case Values(maps):
                return Values(self.mirror_label(maps))
            case Distribution():
                return self.mirror_output(output.reduced())
            case Moments():
                return output.mirrored().with_signs(MIRROR)
        raise unsupported(self, output)

    def prediction(
        self,
        values: Float[Tensor, "3 h w"],
        std: Float[Tensor, "h w"] | None,
        valid: Bool[Tensor, "h w"] | None = None,
    ) -> "NormalPrediction":
        """Return directions of length 1; ``valid`` is finite."""
        units = functional.normalize(values, dim=0, eps=1e-6)
        return NormalPrediction(units, units.isfinite().all(dim=0) if valid is None else valid, std)

    def measure(self, label: Float[Tensor, "b 3 h w"], target: Target) -> Float64[Tensor, "2"]:
        """Return the sum of the angles in degrees and the number of pixels."""
        found = functional.normalize(label.double(), dim=1, eps=1e-6)
        cosine = (found * functional.normalize(target.label.double(), dim=1)).sum(dim=1)
        angle = torch.rad2deg(cosine.clamp(-1, 1).acos())[target.valid]
        return torch.stack([angle.sum(), target.valid.sum().double()])

    def score(self, sums: Float64[Tensor, "2"]) -> float:
        """Return the mean angle in degrees."""
        return float(sums[0] / sums[1])

    def constant(
        self, label: Float[Tensor, "b 3 h w"], valid: Bool[Tensor, "b h w"]
    ) -> Float[Tensor, "3"]:
        """Return the mean direction."""
        return functional.normalize(label.movedim(1, -1)[valid].mean(dim=0), dim=0)


@dataclass(frozen=True)
class NormalPrediction(Prediction):
    """Directions of one image.

    Attributes:
        values: unit vectors, x right, y down, z forward.
        valid: False where a component is not finite.
        uncertainty: standard deviation of the components, root mean square over the three.
    """

    values: Float[Tensor, "3 h w"]
    valid: Bool[Tensor, "h w"]
    uncertainty: Float[Tensor, "h w"] | None = None
    kind = "normals"

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.valid.shape
        return height, width

    def to_label(self) -> Float[Tensor, "3 h w"]:
        """Return the vectors."""
        return self.values

    def arrays(self) -> dict[str, StoredArray]:
        """Return ``values`` (``h w 3``, NaN is unknown) and ``uncertainty``."""
        values = torch.where(self.valid, self.values, torch.nan).movedim(0, -1)
        found = {"values": StoredArray(values.cpu().numpy())}
        if self.uncertainty is not None:
            found["uncertainty"] = StoredArray(self.uncertainty.cpu().numpy())
        return found

    def metadata(self) -> dict[str, Any]:
        """Return size, validity and what the axes are."""
        height, width = self.hw
        about: dict[str, Any] = {
            "size": [width, height],
            "unit": "",
            "valid": rounded_fraction(self.valid),
            "directions": "unit vectors: x right, y down, z forward",
        }
        if self.uncertainty is not None:
            about["uncertainty_is"] = "standard deviation of the predicted distribution"
        return about

    def draw(self, image: Float[Tensor, "3 h w"] | None = None) -> UInt8[Tensor, "3 h w"]:
        """RGB = (x, y, z) from -1 to 1."""
        return draw_rgb((self.values.cpu() + 1) / 2, self.valid)

    def draw_with(
        self, other: "NormalPrediction", image: Float[Tensor, "3 h w"]
    ) -> tuple[UInt8[Tensor, "3 h w"], ...]:
        """Return truth, prediction and error, white to red, full at 45 degrees."""
        cosine = (self.values * other.values).sum(dim=0).clamp(-1, 1).cpu()
        angle = torch.rad2deg(cosine.acos())
        error = draw_red(angle / FULL_ERROR_DEG, self.valid & other.valid)
        return self.draw(), other.draw(), error
