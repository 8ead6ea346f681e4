"""Evaluation protocols of metric depth: which pixels count, and how they are averaged."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.errors import InputError
from diffsight.metrics.depth import DepthMetrics
from diffsight.protocols.base import AbstractProtocol, PromptRule
from diffsight.tasks import AbstractTask, Prediction
from diffsight.types import DepthType, Masks, Target


@dataclass(frozen=True)
class PixelCrop:
    """Rows and columns that count, first to one past the last, in maps of exactly one size."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    of_hw: tuple[int, int]

    def bounds(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return top, bottom, left and right in pixels.

        Raises:
            InputError: if the maps are of another size.
        """
        if (height, width) != self.of_hw:
            raise InputError(
                f"the protocol's crop is defined for maps of {self.of_hw[0]} x {self.of_hw[1]} "
                f"(height x width), these have {height} x {width}: evaluate at the size of the "
                "ground truth, or choose a protocol without an absolute crop"
            )
        return *self.rows, *self.columns


@dataclass(frozen=True)
class FractionCrop:
    """Rows and columns that count as fractions of the map's size, rounded down to pixels."""

    rows: tuple[float, float]
    columns: tuple[float, float]

    def bounds(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return top, bottom, left and right in pixels."""
        top, bottom = (math.floor(f * height) for f in self.rows)
        left, right = (math.floor(f * width) for f in self.columns)
        return top, bottom, left, right


@dataclass(frozen=True)
class DepthProtocol(AbstractProtocol):
    """How metric depth is scored.

    Attributes:
        crop: pixels that count, or None for all.
        min_depth_m: only a truth above it counts; stands in for predictions that are not positive.
        max_depth_m: only a truth below it counts; stands in for infinite predictions.
        depth_type: what the truth measures.
        resolution: where prediction and truth meet.
        prompt: ``mean`` of the text table, or ``oracle-scene``: the scene type that comes with the
            test image, which the original NYU evaluation takes from the name of its folder; or the
            ``caption`` that was made of the image (EVP).
        averaging: ``image``: each measure per image, then the mean over the images.
    """

    crop: PixelCrop | FractionCrop | None
    min_depth_m: float
    max_depth_m: float
    depth_type: DepthType = "z"
    resolution: Literal["ground-truth"] = "ground-truth"
    prompt: PromptRule = "mean"
    averaging: Literal["image"] = "image"
    kind: ClassVar[str] = "depth"
    scores: ClassVar[str] = "metric depth"

    @property
    def uses_prompt(self) -> bool:
        """Whether the prompt is another than the mean."""
        return self.prompt != "mean"

    def describe(self) -> str:
        """Return one line for a table's caption."""
        parts = (
            self.title(),
            f"crop {_crop_text(self.crop)}",
            f"{self.min_depth_m:g} m < truth < {self.max_depth_m:g} m ({self.depth_type})",
            f"at {self.resolution} resolution",
            f"prompt {self.prompt}",
            f"mean per {self.averaging}",
        )
        return ", ".join(parts)

    def mask(self, target_m: Float[Tensor, "b h w"], valid: Masks) -> Masks:
        """Return the pixels that count.

        Raises:
            InputError: if the crop is defined for maps of another size.
        """
        counts = valid & (target_m > self.min_depth_m) & (target_m < self.max_depth_m)
        if self.crop is None:
            return counts
        top, bottom, left, right = self.crop.bounds(*target_m.shape[-2:])
        inside = torch.zeros_like(counts)
        inside[:, top:bottom, left:right] = True
        return counts & inside

    def prepare(self, prediction_m: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
        """Make every value measurable: NaN and values <= 0 become the minimum, +inf the maximum.

        Nothing else is clamped, as in VPD's evaluation. Differs from it for zero and negative
        predictions, whose logarithm VPD would take; its own model cannot give one.
        """
        finite = prediction_m.nan_to_num(nan=self.min_depth_m, posinf=self.max_depth_m)
        return torch.where(finite > 0, finite, self.min_depth_m)

    def with_prompt(self, rule: PromptRule) -> "DepthProtocol":
        """Return the protocol with this rule for prompts."""
        return replace(self, prompt=rule)

    def with_captions(self) -> "DepthProtocol":
        """Return the protocol with captions as prompts."""
        return replace(self, prompt="caption")

    def metric(self, task: AbstractTask) -> DepthMetrics:
        """Return a fresh metric for what ``prepare`` and ``mask`` give."""
        return DepthMetrics()

    def counted(self, target: Target) -> Masks:
        """Return those of ``mask``."""
        return self.mask(target.label[:, 0], target.valid)

    def measure(self, metric: Any, prediction: Prediction, target: Target) -> bool:
        """Add one image; the label is ``1 1 h w`` in metres.

        Raises:
            InputError: if the prediction is no depth, or the crop is made for another size.
        """
        self.require_kind(prediction)
        label = target.label[0]
        mask = self.counted(target)
        depth_m = prediction.to_label().float().to(label.device)
        metric.update(self.prepare(depth_m), label, mask)
        return bool(mask.any())


def _crop_text(crop: PixelCrop | FractionCrop | None) -> str:
    if crop is None:
        return "none"
    (top, bottom), (left, right) = crop.rows, crop.columns
    unit = f"of {crop.of_hw[0]} x {crop.of_hw[1]}" if isinstance(crop, PixelCrop) else "of the size"
    return f"rows {top}:{bottom} columns {left}:{right} {unit}"


NYU_EIGEN_V1 = DepthProtocol(
    name="nyu-eigen-v1",
    split="NYU Depth v2 official test, 654 images",
    crop=PixelCrop(rows=(45, 471), columns=(41, 601), of_hw=(480, 640)),
    min_depth_m=1e-3,
    max_depth_m=10.0,
    plan="windows 480 x 480 at columns 0 and 160, each with its mirror image (VPD: 4 passes)",
)
KITTI_GARG_V1 = DepthProtocol(
    name="kitti-garg-v1",
    split="KITTI Eigen test with annotated depth, 652 images, KB crop 352 x 1216",
    crop=FractionCrop(rows=(0.40810811, 0.99189189), columns=(0.03594771, 0.96405229)),
    min_depth_m=1e-3,
    max_depth_m=80.0,
    plan="windows 352 x 352 at 20 columns, each with its mirror image (EVP: 40 passes)",
)
SUN_RGBD_V1 = DepthProtocol(
    name="sun-rgbd-v1",
    split="SUN RGB-D test, 5,050 images",
    crop=None,
    min_depth_m=1e-3,
    max_depth_m=10.0,
    plan="the whole image and its mirror image (DDP, table 6)",
)
ROOMS_V1 = DepthProtocol(
    name="rooms-v1",
    split="rooms test",
    crop=None,
    min_depth_m=1e-3,
    max_depth_m=10.0,
    plan="the whole image, one pass",
)
