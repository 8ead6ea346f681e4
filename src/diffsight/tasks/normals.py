"""Surface normals, and other directions per pixel: the task and its prediction."""

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

DEFAULT_BINS = 40  # as in few_shot, section 4
WITHIN_DEG = (11.25, 22.5, 30.0)
FULL_ERROR_DEG = 45.0  # the error picture has full colour from this angle on
MIRROR = torch.tensor([-1.0, 1.0, 1.0])  # factors of x, y and z in a mirrored image


class Normals(AbstractNumbers):
    """Surface normals: unit vectors with x right, y down, z forward.

    The metric is the mean angle in degrees. The loss of a distribution uses its expected vector,
    whose length may differ from 1; only predictions are normalised to length 1.

    Args:
        label: key of ``Sample.labels``, three channels.
        bins: number of codebook vectors on the sphere. ``auto`` is 40, or the number of different
            labels if that is smaller; None supports values only.
        alpha: weight of the squared error relative to the cross-entropy; infinity trains with the
            squared error alone.
        simplices: number of the codebook's triangles, set when it is fitted.
        hard_labels: encode a direction as the nearest codebook vector, not as a mixture of the
            three vectors around it.
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
        """Return the mirrored label; x changes its sign."""
        return label.flip(-1) * MIRROR.to(label)[:, None, None]

    def mirror_output(self, output: Output) -> Output:
        """Return the mirrored output; x changes its sign. A distribution becomes its moments."""
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
        """Return the prediction for one image; its vectors are normalised to length 1.

        If ``valid`` is None, pixels with finite values are valid.
        """
        units = functional.normalize(values, dim=0, eps=1e-6)
        return NormalPrediction(units, units.isfinite().all(dim=0) if valid is None else valid, std)

    def maps_by_name(self, output: Output) -> Mapping[str, Float[Tensor, "b _ h w"]]:
        """Return the maps by name; the vectors are normalised to length 1 as in predictions."""
        maps = output.maps_by_name()
        return {**maps, "values": functional.normalize(maps["values"], dim=1, eps=1e-6)}

    def measure(self, label: Float[Tensor, "b 3 h w"], target: Target) -> Float64[Tensor, "5"]:
        """Return five sums over the valid pixels.

        They are the angles in degrees, the number of pixels, and the numbers of pixels with angles
        below 11.25, 22.5 and 30 degrees.
        """
        angle = self.error(label.double(), target.label.double())[target.valid]
        below = [(angle < limit).sum().double() for limit in WITHIN_DEG]
        return torch.stack([angle.sum(), target.valid.sum().double(), *below])

    def error(self, values: Maps, label: Maps) -> Float[Tensor, "b h w"]:
        """Return the angle between prediction and label at every pixel, in degrees."""
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
        """Return the mean angle, and the percentages of angles below 11.25, 22.5 and 30 degrees."""
        counts = zip(WITHIN_DEG, sums[2:].tolist(), strict=True)
        within = {f"within {limit}°, %": 100 * count / float(sums[1]) for limit, count in counts}
        return {self.metric_name: self.score(sums), **within}

    def constant(self, label: Float[Tensor, "b 3 h w"], valid: Masks) -> Float[Tensor, "3"]:
        """Return the mean direction of the valid labels, with length 1."""
        return functional.normalize(label.movedim(1, -1)[valid].mean(dim=0), dim=0)


@dataclass(frozen=True)
class NormalPrediction(NumbersPrediction):
    """The predicted normals (or other directions) of one image.

    Attributes:
        values: unit vectors; x right, y down, z forward.
        valid: False where a component is not finite.
        uncertainty: standard deviation, root mean square over the three components.
    """

    values: Float[Tensor, "3 h w"]
    valid: Mask
    uncertainty: Map | None = None
    kind = "normals"
    notes = MappingProxyType({"directions": "unit vectors: x right, y down, z forward"})

    def draw(self, image: Float[Tensor, "3 h w"] | None = None) -> Picture:
        """Return x, y and z, from -1 to 1, as red, green and blue."""
        return draw_rgb((self.values.cpu() + 1) / 2, self.valid)

    def draw_with(self, other: Any, image: Float[Tensor, "3 h w"]) -> tuple[Picture, ...]:
        """Return pictures of truth, prediction and error (white to full red at 45 degrees)."""
        cosine = (self.values * other.values).sum(dim=0).clamp(-1, 1).cpu()
        angle = torch.rad2deg(cosine.acos())
        error = draw_red(angle / FULL_ERROR_DEG, self.valid & other.valid)
        return self.draw(), other.draw(), error


def _unit(vectors: Maps) -> Maps:
    """Return directions of length 1."""
    return functional.normalize(vectors, dim=1, eps=1e-6)
