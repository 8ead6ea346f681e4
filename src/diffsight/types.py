"""The records that travel between the parts of diffsight, and the one legend of axis names.

Axes: ``b`` image in the batch, ``c`` channels, ``h w`` pixels (rows, columns), ``n`` tokens, ``k``
classes or outputs, ``j`` joints, ``q`` queries, ``t`` steps. Images are RGB in [0, 1] unless a name
says otherwise; camera axes are x right, y down, z forward; depth is in metres along z unless
``depth_type`` says otherwise.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Camera:
    """Pinhole intrinsics in pixels; the centre of the top-left pixel is (0, 0)."""

    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float


@dataclass(frozen=True)
class Inputs:
    """A batch as a method sees it.

    Attributes:
        image: RGB in [0, 1].
        prompts: one text per image: a name for methods with a text table (for depth the scene
            type; None in a row, or None altogether, stands for the mean of the table), or a
            sentence.
        cached: frozen intermediate results by name, computed once per image.
    """

    image: Float[Tensor, "b 3 h w"]
    prompts: tuple[str | None, ...] | None = None
    cached: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> "Inputs":
        """Copy the tensors to ``device``."""
        cached = {name: value.to(device) for name, value in self.cached.items()}
        return replace(self, image=self.image.to(device), cached=cached)


@dataclass(frozen=True)
class Target:
    """What the labels of a batch say, in the units of the task.

    Attributes:
        label: ``b k h w`` of floats, or ``b h w`` of class ids.
        valid: where the label means something; everything else is ignored by losses and metrics.
    """

    label: Tensor
    valid: Bool[Tensor, "b h w"]

    def to(self, device: torch.device | str) -> "Target":
        """Copy the tensors to ``device``."""
        return replace(self, label=self.label.to(device), valid=self.valid.to(device))


@dataclass(frozen=True)
class Draws:
    """The random numbers of one pass: a seed per image, so rows do not depend on their batch."""

    seeds: tuple[int, ...]

    def normal(self, stream: int, shape: tuple[int, ...]) -> Float[Tensor, "b ..."]:
        """Standard normal numbers, ``shape`` per image; ``stream`` tells uses apart."""
        rows = [torch.randn(shape, generator=generator) for generator in self._generators(stream)]
        return torch.stack(rows)

    def integers(self, stream: int, low: int, high: int) -> Int[Tensor, " b"]:
        """A whole number per image, both ends included."""
        rows = [torch.randint(low, high + 1, (), generator=g) for g in self._generators(stream)]
        return torch.stack(rows)

    def _generators(self, stream: int) -> list[torch.Generator]:
        numbers = ((seed * 1_000_003 + stream) % 2**63 for seed in self.seeds)
        return [torch.Generator().manual_seed(number) for number in numbers]

    @classmethod
    def of_content(cls, image: Float[Tensor, "b 3 h w"]) -> "Draws":
        """Seeds from the pixels, rounded to 8 bits: the same wherever the image lies."""
        pixels = (image.detach() * 255).round().clamp(0, 255).to("cpu", torch.uint8)
        prefix = f"{tuple(image.shape[-2:])} ".encode()
        digests = (hashlib.sha256(prefix + row.numpy().tobytes()).digest() for row in pixels)
        return cls(tuple(int.from_bytes(digest[:7], "big") for digest in digests))


@dataclass(frozen=True)
class Pyramid:
    """Feature maps of one batch, finest first.

    Attributes:
        features: maps; level i has ``1 / strides[i]`` of the padded image's size.
        strides: image pixels per feature pixel.
        valid_hw: size of the image in pixels before padding on the right and at the bottom.
        attention: cross-attention maps by level, averaged over heads and layers, one channel per
            token.
    """

    features: tuple[Float[Tensor, "b _ _ _"], ...]
    strides: tuple[int, ...]
    valid_hw: tuple[int, int]
    attention: Mapping[int, Float[Tensor, "b _ _ _"]] = field(default_factory=dict)


@dataclass(frozen=True)
class RawOutput:
    """What a method computes, before the task gives it a meaning.

    Attributes:
        maps: one channel per output of the task.
        space: ``logits``, ``probability``, or ``value`` (already in the unit of the task).
        auxiliary: further maps that a loss or a picture may want.
        std: spread of ``maps`` over the passes of a plan (windows, flips); NaN where fewer than two
            passes were. Set by ``inference``, never by a method.
    """

    maps: Float[Tensor, "b k h w"]
    space: Literal["logits", "probability", "value"]
    auxiliary: Mapping[str, Tensor] = field(default_factory=dict)
    std: Float[Tensor, "b k h w"] | None = None


DepthType = Literal["z", "euclidean"]


@dataclass(frozen=True)
class DepthPrediction:
    """Metric depth of one image.

    Attributes:
        depth_m: metres.
        valid: False where the value is not finite or outside the task's range.
        depth_type: ``z`` along the optical axis, ``euclidean`` along the ray.
        uncertainty_m: in metres. Of an adapted task the standard deviation of the predicted
            distribution; else the spread of the passes of the plan (windows, flips), NaN where
            fewer than two passes were, or None with one pass.
    """

    unit: ClassVar[str] = "m"
    depth_m: Float[Tensor, "h w"]
    valid: Bool[Tensor, "h w"]
    depth_type: DepthType
    uncertainty_m: Float[Tensor, "h w"] | None = None


@dataclass(frozen=True)
class ClassPrediction:
    """Classes of one image.

    Attributes:
        ids: of ``names``; of a task that was adapted, as the label files have them.
        confidence: probability of the class.
        names: of the ids.
        palette: RGB of the ids.
    """

    ids: Int[Tensor, "h w"]
    confidence: Float[Tensor, "h w"]
    names: Mapping[int, str]
    palette: Mapping[int, tuple[int, int, int]]

    @property
    def ids_are_colours(self) -> bool:
        """Whether every id is the 24-bit number of its colour, as in label files of colours."""
        colours = ((r << 16 | g << 8 | b) for r, g, b in self.palette.values())
        return bool(self.palette) and list(self.palette) == list(colours)


@dataclass(frozen=True)
class MaskPrediction:
    """The thing that a sentence means, in one image.

    Attributes:
        mask: where it is.
        probability: of being it.
    """

    mask: Bool[Tensor, "h w"]
    probability: Float[Tensor, "h w"]


@dataclass(frozen=True)
class ValuePrediction:
    """Numbers of one image, one or several per pixel.

    Attributes:
        values: in ``unit``; of length 1 where they are ``directions``.
        valid: False where a value is not finite.
        unit: of the values, empty where they have none.
        directions: unit vectors, x right, y down, z forward.
        uncertainty: standard deviation of the predicted distribution, in ``unit``; root mean square
            over the channels.
    """

    values: Float[Tensor, "d h w"]
    valid: Bool[Tensor, "h w"]
    unit: str
    directions: bool = False
    uncertainty: Float[Tensor, "h w"] | None = None
