"""Directions per pixel, such as surface normals."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional

from diffsight.outputs import Distribution, Moments, Output, Values
from diffsight.tasks.base import unsupported
from diffsight.tasks.numbers import AbstractNumbers, Bins
from diffsight.tasks.prediction import NumbersPrediction, draw_red, draw_rgb
from diffsight.types import Map, Maps, Mask, Masks, Picture, Target

DEFAULT_BINS = 40  # few_shot, section 4
WITHIN_DEG = (11.25, 22.5, 30.0)
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
        hard_labels: a direction becomes the nearest codebook vector, not a mixture of the three
            around it.
    """

    metric_name = "mean angle, °"

    def __init__(
        self,
        *,
        label: str = "normals",
        bins: Bins | None = None,
        alpha: float = 1.0,
        simplices: int = 0,
        hard_labels: bool = False,
    ) -> None:
        super().__init__(
            channels=3,
            label=label,
            bins=bins,
            default_bins=DEFAULT_BINS,
            alpha=alpha,
            spherical=True,
            simplices=simplices,
            hard_labels=hard_labels,
        )

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
        self, values: Float[Tensor, "3 h w"], std: Map | None, valid: Mask | None = None
    ) -> "NormalPrediction":
        """Return directions of length 1; ``valid`` is finite."""
        units = functional.normalize(values, dim=0, eps=1e-6)
        return NormalPrediction(units, units.isfinite().all(dim=0) if valid is None else valid, std)

    def measure(self, label: Float[Tensor, "b 3 h w"], target: Target) -> Float64[Tensor, "5"]:
        """Return the sum of the angles, the number of pixels, and those within some angles."""
        angle = self.error(label.double(), target.label.double())[target.valid]
        below = [(angle < limit).sum().double() for limit in WITHIN_DEG]
        return torch.stack([angle.sum(), target.valid.sum().double(), *below])

    def error(self, values: Maps, label: Maps) -> Float[Tensor, "b h w"]:
        """Return the angle in degrees."""
        cosine = (_unit(values) * _unit(label)).sum(dim=1)
        return torch.rad2deg(cosine.clamp(-1, 1).acos())

    def _label_deviation(self) -> float:
        return math.degrees(super()._label_deviation())

    def _std_of_error(self, std: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
        return torch.rad2deg(super()._std_of_error(std))

    @property
    def _radius(self) -> Mapping[str, Any]:
        return {"radius_is": "angle between a direction and the predicted one", "radius_unit": "°"}

    def score(self, sums: Float64[Tensor, "5"]) -> float:
        """Return the mean angle in degrees."""
        return float(sums[0] / sums[1])

    def figures(self, sums: Float64[Tensor, "5"]) -> dict[str, float]:
        """Return the mean angle, and the percentage of pixels within 11.25, 22.5 and 30 degrees."""
        rows = zip(WITHIN_DEG, sums[2:].tolist(), strict=True)
        within = {f"within {limit}°, %": 100 * count / float(sums[1]) for limit, count in rows}
        return {self.metric_name: self.score(sums), **within}

    def constant(self, label: Float[Tensor, "b 3 h w"], valid: Masks) -> Float[Tensor, "3"]:
        """Return the mean direction."""
        return functional.normalize(label.movedim(1, -1)[valid].mean(dim=0), dim=0)


@dataclass(frozen=True)
class NormalPrediction(NumbersPrediction):
    """Directions of one image.

    Attributes:
        values: unit vectors, x right, y down, z forward.
        valid: False where a component is not finite.
        uncertainty: standard deviation of the components, root mean square over the three.
    """

    values: Float[Tensor, "3 h w"]
    valid: Mask
    uncertainty: Map | None = None
    kind = "normals"
    notes = MappingProxyType({"directions": "unit vectors: x right, y down, z forward"})

    def draw(self, image: Float[Tensor, "3 h w"] | None = None) -> Picture:
        """RGB = (x, y, z) from -1 to 1."""
        return draw_rgb((self.values.cpu() + 1) / 2, self.valid)

    def draw_with(self, other: Any, image: Float[Tensor, "3 h w"]) -> tuple[Picture, ...]:
        """Return truth, prediction and error, white to red, full at 45 degrees."""
        cosine = (self.values * other.values).sum(dim=0).clamp(-1, 1).cpu()
        angle = torch.rad2deg(cosine.acos())
        error = draw_red(angle / FULL_ERROR_DEG, self.valid & other.valid)
        return self.draw(), other.draw(), error


def _unit(vectors: Maps) -> Maps:
    """Return directions of length 1."""
    return functional.normalize(vectors, dim=1, eps=1e-6)
