"""Dataclasses that the parts of diffsight exchange, and the legend of axis names.

Axes: ``b`` image in the batch, ``c`` channels, ``d`` values per pixel, ``h w`` pixels (rows,
columns), ``n`` tokens, ``k`` classes or outputs, ``m`` boxes or people, ``j`` joints, ``q``
queries, ``t`` steps. Images are RGB in [0, 1] unless a name says otherwise; camera axes are x
right, y down, z forward; depth is in metres along z unless ``depth_type`` says otherwise.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from diffsight.records import Record
from diffsight.rig import Rig

Images = Float[Tensor, "b 3 h w"]
"""A batch of RGB images in [0, 1]."""
Maps = Float[Tensor, "b d h w"]
"""A batch of maps with ``d`` channels."""
Map = Float[Tensor, "h w"]
Mask = Bool[Tensor, "h w"]
Masks = Bool[Tensor, "b h w"]
"""A mask of pixels for each image of a batch."""
Picture = UInt8[Tensor, "3 h w"]
"""An RGB picture with values from 0 to 255."""


@dataclass(frozen=True)
class Camera:
    """Pinhole intrinsics in pixels; the centre of the top-left pixel is (0, 0)."""

    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float


@runtime_checkable
class Latents(Protocol):
    """Cache of the latents or features of images, for several models with one frozen encoder."""

    def get(
        self,
        encoder: object,
        image: Images,
        compute: Callable[[Images], Float[Tensor, "n ..."]],
    ) -> Float[Tensor, "b ..."]:
        """Return the latents of images, from the cache if possible.

        Args:
            encoder: encoder that computes the latents.
            image: images in [0, 1].
            compute: function that returns the latents of images that are not cached.
        """
        ...


@runtime_checkable
class TextFeatures(Protocol):
    """Cache of the features of sentences, for a frozen text tower."""

    def get(
        self,
        encoder: object,
        sentences: Sequence[str | None],
        compute: Callable[[str | None], Float[Tensor, "1 n c"]],
        device: torch.device,
    ) -> Float[Tensor, "b n c"]:
        """Return the features of sentences, from the cache if possible.

        Args:
            encoder: prompt module that computes the features.
            sentences: one sentence per image.
            compute: function that returns the features of a sentence that is not cached.
            device: device of the features.

        Raises:
            InputError: if ``compute`` raises it.
        """
        ...


@dataclass(frozen=True)
class Inputs(Record):
    """A batch of inputs of a method.

    Attributes:
        image: RGB in [0, 1].
        prompts: one text per image: a sentence, or a name from the method's text table (for depth
            the scene type). For such a table, a prompt that is None stands for the mean of all
            rows.
        text: encoded sentences, used instead of ``prompts``: token ids ``b n``, or features
            ``b n c`` of the text tower.
        latents: cache shared with other models that predict on the same image.
        text_features: cache of encoded sentences, kept by the code that makes the batches.
        people: people of each image whose joints are predicted; None: an image shows one person.
        steps: number of refinement steps of an iterative method; None: the method's default.
        rig: images of several cameras, for bird's-eye-view maps; None: one image.
    """

    image: Images
    prompts: tuple[str | None, ...] | None = None
    text: Tensor | None = None
    latents: Latents | None = None
    text_features: TextFeatures | None = None
    people: "tuple[People | None, ...] | None" = None
    steps: int | None = None
    rig: Rig | None = None


@dataclass(frozen=True)
class Encoded(Record):
    """Outputs of a method's frozen networks, computed once per image and reused in every step.

    They depend on the image alone, not on random noise. A method with frozen networks declares a
    subclass, whose fields are tensors with one row per image, tuples of such tensors, or None.
    """

    def rows(self, index: slice | Sequence[int]) -> Self:
        """Return the features of some images."""
        chosen = index if isinstance(index, slice) else list(index)
        return self._map(lambda tensor: tensor[chosen])

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Return several batches as one batch; their images have the same size."""
        columns = ([getattr(part, field.name) for part in parts] for field in fields(cls))
        return cls(*(_joined(column) for column in columns))


def _joined(values: Sequence[Any]) -> Any:
    if isinstance(values[0], tuple):
        return tuple(_joined(column) for column in zip(*values, strict=True))
    return None if values[0] is None else torch.cat(list(values))


@dataclass(frozen=True)
class Boxes(Record):
    """Boxes of one image, each around one object of its class.

    No pixel of a class lies outside all boxes of that class. A pixel inside has a class of one of
    the boxes that cover it, or is background. An object touches all four sides of its box.

    Attributes:
        class_ids: numbers of the classes.
        edges: left, top, right and bottom in pixels; the top-left corner of the image is (0, 0).
        is_whole: False for a box that reaches beyond the image.
        background: class number of pixels without an object.
    """

    class_ids: Int[Tensor, " m"]
    edges: Float[Tensor, "m 4"]
    is_whole: Bool[Tensor, " m"]
    background: int = 0

    def resized(self, old_hw: tuple[int, int], hw: tuple[int, int]) -> "Boxes":
        """Return the boxes of the resized image.

        Args:
            old_hw: height and width of the image in pixels.
            hw: height and width of the resized image in pixels.
        """
        y, x = (new / old for old, new in zip(old_hw, hw, strict=True))
        return replace(self, edges=self.edges * self.edges.new_tensor([x, y, x, y]))

    def mirrored(self, width: int) -> "Boxes":
        """Return the boxes of the mirrored image, which is ``width`` pixels wide."""
        left, top, right, bottom = self.edges.unbind(dim=1)
        return replace(self, edges=torch.stack([width - right, top, width - left, bottom], dim=1))

    def cropped(self, top: int, left: int, height: int, width: int) -> "Boxes":
        """Return the parts of the boxes inside a window of the image, in pixels of the window."""
        moved = self.edges - self.edges.new_tensor([left, top, left, top])
        low, high = moved.new_zeros(4), moved.new_tensor([width, height, width, height])
        edges = moved.clamp(low, high)
        is_whole = self.is_whole & (edges == moved).all(dim=1)
        is_inside = (edges[:, 2:] > edges[:, :2]).all(dim=1)
        rows = (self.class_ids[is_inside], edges[is_inside], is_whole[is_inside])
        return Boxes(*rows, self.background)

    def windows(self, hw: tuple[int, int]) -> list[tuple[slice, slice]]:
        """Return the rows and columns of the pixels in each box.

        A row or column is in a box if the centres of its pixels are. If a box contains no row (or
        no column), it gets the one at the middle of the box. The result stays within the image.

        Args:
            hw: height and width of the image in pixels.
        """
        windows = []
        for left, top, right, bottom in self.edges.tolist():
            spans = []
            for first, last, size in ((top, bottom, hw[0]), (left, right, hw[1])):
                start, stop = math.ceil(first - 0.5), math.ceil(last - 0.5)
                if stop <= start:
                    start = math.floor((first + last) / 2)
                start = min(max(start, 0), size - 1)
                spans.append(slice(start, min(max(stop, start + 1), size)))
            windows.append((spans[0], spans[1]))
        return windows


@dataclass(frozen=True)
class People(Record):
    """Boxes, joints and areas of the people in one image.

    Attributes:
        edges: left, top, right and bottom of a box around each, in pixels; the centre of the
            top-left pixel is (0, 0).
        scores: confidence of each box in [0, 1]; 1 for a labelled box.
        keypoints: x and y in pixels, and COCO's visibility: 0 not labelled, 1 labelled but not
            visible, 2 visible.
        areas: areas of the silhouettes in square pixels.
        is_crowd: True for a box around a crowd, which is neither missed nor a false alarm.
    """

    edges: Float[Tensor, "m 4"]
    scores: Float[Tensor, " m"]
    keypoints: Float[Tensor, "m j 3"]
    areas: Float[Tensor, " m"]
    is_crowd: Bool[Tensor, " m"]

    @classmethod
    def of_boxes(cls, edges: Float[Tensor, "m 4"], scores: Float[Tensor, " m"]) -> "People":
        """Return people with boxes and scores but without joints; their areas are the boxes'."""
        areas = (edges[:, 2:] - edges[:, :2]).prod(dim=1)
        is_crowd = torch.zeros(len(edges), dtype=torch.bool)
        return cls(edges, scores, edges.new_zeros(len(edges), 0, 3), areas, is_crowd)

    def at(self, rows: Tensor) -> "People":
        """Return the people at these rows.

        Args:
            rows: indices, or a mask of all people.
        """
        return self._map(lambda tensor: tensor[rows])

    def labelled(self) -> "People":
        """Return the people with at least one labelled joint; crowds are left out."""
        return self.at((self.keypoints[..., 2] > 0).any(dim=1) & ~self.is_crowd)

    def __len__(self) -> int:
        """Return the number of people."""
        return len(self.edges)


@dataclass(frozen=True)
class Target(Record):
    """Labels of a batch in the units of the task.

    Attributes:
        label: ``b k h w`` of floats, ``b h w`` of class ids, or ``b m j 3`` of joints.
        valid: pixels that have a label; losses and metrics ignore all others.
        boxes: boxes of each image, if the class of pixels inside boxes is not labelled; None
            without boxes.
        people: people of each image, for labels that are joints; None for other labels.
    """

    label: Tensor
    valid: Masks
    boxes: tuple[Boxes | None, ...] | None = None
    people: tuple[People | None, ...] | None = None

    def row(self, index: int) -> "Target":
        """Return the labels of one image as a batch of one."""
        rows = slice(index, index + 1)
        boxes, people = self.boxes and self.boxes[rows], self.people and self.people[rows]
        return Target(self.label[rows], self.valid[rows], boxes, people)

    def at(self, pixels: "PixelGrid") -> "Target":
        """Return the labels at some rows and columns of the pixels."""
        return self._map(lambda tensor: tensor[..., pixels[0], pixels[1]])


@dataclass(frozen=True)
class PixelErrors:
    """Errors of the pixels of one prediction, with their uncertainty and confidence.

    Attributes:
        error: 0 or 1 for classes, otherwise a distance in the unit of the labels.
        uncertainty: larger where a larger error is expected; for numbers a standard deviation.
        confidence: probability of the predicted class; None for numbers.
    """

    error: Float[Tensor, "h w"]
    uncertainty: Float[Tensor, "h w"]
    confidence: Float[Tensor, "h w"] | None = None


PixelGrid = tuple[slice, slice]
"""Rows and columns of a map."""


@dataclass(frozen=True)
class Draws:
    """Random numbers of one forward pass.

    Every image has its own seed, so its numbers do not depend on the rest of the batch.

    Attributes:
        seeds: seed of each image.
    """

    seeds: tuple[int, ...]

    def normal(self, stream: int, shape: tuple[int, ...]) -> Float[Tensor, "b ..."]:
        """Return standard normal numbers of this shape per image.

        Args:
            stream: number of the stream; numbers for different purposes need different streams.
            shape: shape of the numbers of one image.
        """
        rows = [torch.randn(shape, generator=generator) for generator in self._generators(stream)]
        return torch.stack(rows)

    def uniform(self, stream: int) -> Float[Tensor, " b"]:
        """Return a number in [0, 1) per image, from this stream."""
        rows = [torch.rand((), generator=generator) for generator in self._generators(stream)]
        return torch.stack(rows)

    def integers(self, stream: int, low: int, high: int) -> Int[Tensor, " b"]:
        """Return a whole number in [low, high] per image, from this stream."""
        rows = [torch.randint(low, high + 1, (), generator=g) for g in self._generators(stream)]
        return torch.stack(rows)

    def _generators(self, stream: int) -> list[torch.Generator]:
        numbers = ((seed * 1_000_003 + stream) % 2**63 for seed in self.seeds)
        return [torch.Generator().manual_seed(number) for number in numbers]

    @classmethod
    def of_content(cls, image: Images) -> "Draws":
        """Return seeds computed from the pixels (rounded to 8 bits), not from the file name."""
        pixels = (image.detach() * 255).round().clamp(0, 255).to("cpu", torch.uint8)
        prefix = f"{tuple(image.shape[-2:])} ".encode()
        digests = (hashlib.sha256(prefix + row.numpy().tobytes()).digest() for row in pixels)
        return cls(tuple(int.from_bytes(digest[:7], "big") for digest in digests))


@dataclass(frozen=True)
class Pyramid:
    """Feature maps of a batch, finest level first.

    Attributes:
        features: maps of each level; those of level i have ``1 / strides[i]`` of the padded image's
            size.
        strides: image pixels per feature pixel.
        valid_hw: size of the image in pixels before padding on the right and at the bottom.
        extent_hw: height and width in image pixels that the maps cover, padding included. None: the
            size of a map times its stride. The maps of a backbone that resizes the image to a
            square cover the whole image.
        attention: cross-attention maps by level, averaged over heads and layers, one channel per
            token.
    """

    features: tuple[Float[Tensor, "b _ _ _"], ...]
    strides: tuple[int, ...]
    valid_hw: tuple[int, int]
    extent_hw: tuple[int, int] | None = None
    attention: Mapping[int, Float[Tensor, "b _ _ _"]] = field(default_factory=dict)

    def covered_hw(self, level: int) -> tuple[int, int]:
        """Return the size in image pixels that the maps of a level cover, padding included."""
        if self.extent_hw is not None:
            return self.extent_hw
        rows, columns = self.features[level].shape[-2:]
        return rows * self.strides[level], columns * self.strides[level]


ErrorKind = Literal["classes", "number", "vector"]
"""Kind of error of a pixel: a wrong class, or the distance of a number or a vector."""
DepthType = Literal["z", "euclidean"]
