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
    """A crop in pixels, for maps of exactly one size.

    Attributes:
        rows: first row, and one past the last row.
        columns: first column, and one past the last column.
        of_hw: height and width of the maps that the crop is defined for.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    of_hw: tuple[int, int]

    def bounds(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return first row, end of the rows, first column and end of the columns, in pixels.

        Raises:
            InputError: if the maps have another size than ``of_hw``.
        """
        if (height, width) != self.of_hw:
            raise InputError(
                f"the protocol's crop is defined for maps of {self.of_hw[0]} x {self.of_hw[1]} "
                f"(height x width), these have {height} x {width}: evaluate at the size of the "
                "ground truth, or choose a protocol whose crop is relative to the size"
            )
        return *self.rows, *self.columns


@dataclass(frozen=True)
class FractionCrop:
    """A crop in fractions of the map's height and width, rounded down to pixels.

    Attributes:
        rows: begin and end of the rows, in [0, 1].
        columns: begin and end of the columns, in [0, 1].
    """

    rows: tuple[float, float]
    columns: tuple[float, float]

    def bounds(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return first row, end of the rows, first column and end of the columns, in pixels."""
        top, bottom = (math.floor(f * height) for f in self.rows)
        left, right = (math.floor(f * width) for f in self.columns)
        return top, bottom, left, right


@dataclass(frozen=True)
class DepthProtocol(AbstractProtocol):
    """Rules for scoring metric depth.

    Attributes:
        crop: region of the pixels that count, or None for the whole map.
        min_depth_m: only true depths above it count; it replaces predictions that are NaN or not
            positive.
        max_depth_m: only true depths below it count; it replaces infinite predictions.
        depth_type: ``z`` along the optical axis, or ``euclidean`` along the ray.
        resolution: size at which prediction and label are compared.
        prompt: which prompt the model gets. ``mean``: none, so that it uses the mean of its text
            table. ``oracle-scene``: the scene type of the test image, which the original NYU
            evaluation takes from the name of the folder. ``caption``: a caption of the image (EVP).
        averaging: ``image``: each metric is computed per image, then averaged over the images.
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
        """Whether the model gets the prompt of each sample and not the mean of its text table."""
        return self.prompt != "mean"

    @property
    def prompt_source(self) -> PromptRule | None:
        """Required source of the prompts; None if the model gets no prompt."""
        return self.prompt if self.uses_prompt else None

    def describe(self) -> str:
        """Return a summary of the rules in one line, for the caption of a table of results."""
        parts = (
            self.title(),
            f"crop {_format_crop(self.crop)}",
            f"{self.min_depth_m:g} m < truth < {self.max_depth_m:g} m ({self.depth_type})",
            f"at {self.resolution} resolution",
            f"prompt {self.prompt}",
            f"mean per {self.averaging}",
        )
        return ", ".join(parts)

    def mask(self, target_m: Float[Tensor, "b h w"], valid: Masks) -> Masks:
        """Return the mask of the pixels that count.

        Args:
            target_m: true depth in metres.
            valid: pixels with a label.

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
        """Return predicted depths in metres whose logarithm is finite.

        NaN and values up to 0 become ``min_depth_m``, and +inf becomes ``max_depth_m``. No other
        value is clamped, as in VPD's evaluation. Differs from it for predictions of 0 or less: VPD
        takes their logarithm, but its model never predicts them.
        """
        finite = prediction_m.nan_to_num(nan=self.min_depth_m, posinf=self.max_depth_m)
        return torch.where(finite > 0, finite, self.min_depth_m)

    def with_prompt(self, rule: PromptRule) -> "DepthProtocol":
        """Return the protocol with this rule for the prompt of the model."""
        return replace(self, prompt=rule)

    def with_captions(self) -> "DepthProtocol":
        """Return the protocol with captions as prompts."""
        return replace(self, prompt="caption")

    def metric(self, task: AbstractTask) -> DepthMetrics:
        """Return a new metric for depth."""
        return DepthMetrics()

    def scored_pixels(self, target: Target) -> Masks:
        """Return the mask of the pixels that count, see ``mask``."""
        return self.mask(target.label[:, 0], target.valid)

    def measure(self, metric: Any, prediction: Prediction, target: Target) -> bool:
        """Add one image to the metric; its label is depth in metres, ``1 1 h w``.

        Raises:
            InputError: if the prediction is not depth, or depth of another type, or the crop is
                defined for another size.
        """
        self.require_kind(prediction)
        depth_type = getattr(prediction, "depth_type", self.depth_type)
        if depth_type != self.depth_type:
            raise InputError(
                f"{self.name} scores depth of type {self.depth_type}, the model predicts "
                f"{depth_type}: evaluate it without a protocol"
            )
        label = target.label[0]
        mask = self.scored_pixels(target)
        depth_m = prediction.to_label().float().to(label.device)
        metric.update(self.prepare(depth_m), label, mask)
        return bool(mask.any())


def _format_crop(crop: PixelCrop | FractionCrop | None) -> str:
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
