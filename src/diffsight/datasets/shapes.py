"""Labels that are polygons or run lengths, rasterised exactly as pycocotools does."""

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from diffsight.datasets.class_lists import ClassList
from diffsight.datasets.files import MAX_PIXELS
from diffsight.datasets.label_source import AbstractLabelSource
from diffsight.datasets.labels import Label, LabelFormat
from diffsight.errors import InputError
from diffsight.types import Boxes

BACKGROUND = "background"
NO_LABEL = "no label"
RESERVED = {BACKGROUND: 0, NO_LABEL: -1}
"""Class ids of shapes with reserved names: background pixels, and pixels without a label."""
MAX_CORNER_RATIO = 10  # of a corner's coordinate to the longer side of the image


@dataclass(frozen=True)
class Shape:
    """A region of one class.

    Attributes:
        class_id: class id of its pixels; see ``RESERVED``.
        outline: polygons ``[[x, y, x, y, ...], ...]`` in pixels, whose union is the region; run
            lengths of COCO (``size`` and ``counts``); or a boolean mask ``h w``.
    """

    class_id: int
    outline: Any


@dataclass(frozen=True)
class Box:
    """A box around an object whose outline is unknown.

    Attributes:
        class_id: class id of the object.
        edges: left, top, right and bottom in pixels; the top-left corner of the image is (0, 0).
    """

    class_id: int
    edges: tuple[float, float, float, float]


@dataclass(frozen=True)
class ShapeMap:
    """The shapes of an image; later shapes cover earlier ones.

    Attributes:
        file: file that the shapes come from, for messages.
        hw: height and width of the image in pixels.
        shapes: shapes in the order of drawing.
        boxes: boxes of further objects, whose outlines are unknown.
    """

    file: Path
    hw: tuple[int, int]
    shapes: Sequence[Shape]
    boxes: Sequence[Box] = ()


class ShapeLabels(AbstractLabelSource):
    """Labels of images that are stored as shapes.

    Pixels without a shape are background, class id 0. Two kinds of pixels have no label: those of
    shapes with the name ``no label``, and those inside a box that no shape covers.

    Args:
        path: file or folder of the labels, for messages.
        maps: shapes by the name of their image, as ``name_of`` returns it.
        classes: ids and names of the classes, without the background.
        notes: notes for the user, one line each.
    """

    def __init__(
        self,
        path: Path,
        maps: Mapping[str, ShapeMap],
        classes: Mapping[int, str],
        notes: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.classes = ClassList({0: BACKGROUND, **classes}, "id")
        self.notes = tuple(notes)
        self._maps = dict(maps)

    @property
    def names(self) -> Collection[str]:
        """Names of the labelled images, as ``name_of`` returns them."""
        return self._maps.keys()

    def file(self, name: str) -> Path:
        """Return the file that the shapes of an image come from."""
        return self._maps[name].file

    def read(self, name: str, form: LabelFormat, hw: tuple[int, int]) -> Label:
        """Return the class map of an image; ``hw`` is not used, because the size is stored."""
        shape_map = self._maps[name]
        ids = np.zeros(shape_map.hw, np.float32)
        for box in shape_map.boxes:
            left, top, right, bottom = box.edges
            ids[math.floor(top) : math.ceil(bottom), math.floor(left) : math.ceil(right)] = -1
        for shape in shape_map.shapes:
            ids[rasterise(shape_map.file, shape.outline, shape_map.hw)] = shape.class_id
        label = Label(torch.from_numpy(ids.clip(min=0))[None], torch.from_numpy(ids >= 0))
        if shape_map.boxes:
            label = replace(label, boxes=_boxes(shape_map.boxes))
        return label if form.invalid is None else label.without(form.invalid)

    def digest(self, name: str) -> str:
        """Return a hash of an image's shapes and boxes, and of the names of their classes."""
        shape_map = self._maps[name]
        names = {RESERVED[NO_LABEL]: NO_LABEL, **(self.classes.names if self.classes else {})}
        content = [
            [
                names[s.class_id],
                s.outline.tolist() if isinstance(s.outline, np.ndarray) else s.outline,
            ]
            for s in shape_map.shapes
        ]
        boxes = [[names[box.class_id], box.edges] for box in shape_map.boxes]
        text = json.dumps([shape_map.hw, content, *boxes], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def _boxes(boxes: Sequence[Box]) -> Boxes:
    class_ids = torch.tensor([box.class_id for box in boxes])
    edges = torch.tensor([box.edges for box in boxes])
    return Boxes(class_ids, edges, torch.ones(len(boxes), dtype=torch.bool), RESERVED[BACKGROUND])


def rasterise(file: Path, outline: Any, hw: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Return the pixels of a shape, exactly as pycocotools draws it.

    Args:
        file: file of the shape, for messages.
        outline: outline of the shape (see ``Shape``).
        hw: height and width of the image in pixels.

    Raises:
        InputError: if the outline is not valid in an image of this size.
    """
    if isinstance(outline, np.ndarray):
        return outline
    return count_parts(file, outline, hw) > 0


def count_parts(file: Path | str, outline: Any, hw: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Return for every pixel how many polygons of a COCO segmentation cover it, at most 255.

    Run lengths count as one polygon.

    Args:
        file: file of the segmentation, for messages.
        outline: polygons or run lengths.
        hw: height and width of the image in pixels.

    Raises:
        InputError: if the outline is not valid in an image of this size.
    """
    height, width = hw
    if isinstance(outline, Mapping):
        return _decode_runs(file, outline, hw)
    if not isinstance(outline, Sequence) or not outline:
        raise InputError(f"{file}: holds an outline that is no polygon or RLE: export it again")
    from faster_coco_eval.core import mask as coco  # imported here: it takes 0.2 s

    total = np.zeros(hw, np.uint16)
    for part in outline:
        corners = _corners(file, part, max(hw))
        (runs,) = coco.frPyObjects([corners], height, width)
        total += coco.decode(runs)
    return total.clip(max=255).astype(np.uint8)


def check_hw(file: Path, height: Any, width: Any) -> tuple[int, int]:
    """Return height and width of an image as a label file states them.

    Args:
        file: file of the shapes, for messages.
        height: stated height in pixels.
        width: stated width in pixels.

    Raises:
        InputError: if they are not positive whole numbers, or the image is too large.
    """
    for side in (height, width):
        if not isinstance(side, int) or isinstance(side, bool) or side < 1:
            raise InputError(
                f"{file}: states an image size of {width} x {height}, which is not valid: export "
                "it again"
            )
    if height * width > MAX_PIXELS:
        raise InputError(
            f"{file}: an image of {width} x {height} pixels is too large: scale it down"
        )
    return height, width


def _corners(file: Path | str, part: Any, side: int) -> list[float]:
    """Return the corners of a polygon as a list of x, y, x, y, ...

    Args:
        file: file of the polygon, for messages.
        part: corners as the file stores them.
        side: longer side of the image in pixels.

    Raises:
        InputError: if there are fewer than three corners, or one is far outside the image.
    """
    try:
        corners = np.asarray(part, np.float64)
    except (TypeError, ValueError):
        corners = np.empty(0)
    if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2:
        raise InputError(f"{file}: a polygon has three corners (x, y) or more: correct the outline")
    # the C code allocates memory for every point between two corners
    if not (np.abs(corners) <= MAX_CORNER_RATIO * side).all():
        raise InputError(f"{file}: a corner lies far outside the image: correct the outline")
    return corners.tolist()


def _decode_runs(
    file: Path | str, runs: Mapping[str, Any], hw: tuple[int, int]
) -> UInt8[np.ndarray, "h w"]:
    """Return the mask that COCO's run lengths encode, plain or compressed, column by column.

    Raises:
        InputError: if they do not fill an image of this size.
    """
    counts: Any = runs.get("counts")
    try:
        if isinstance(counts, str | bytes):
            text = counts.encode("ascii") if isinstance(counts, str) else counts
            lengths = _decompress(text)
        else:
            lengths = np.asarray(counts, np.int64)
    except (TypeError, ValueError, OverflowError):
        lengths = np.empty(0, np.int64)
    height, width = hw
    size = runs.get("size")
    fits = list(size) == [height, width] if isinstance(size, Sequence) else False
    if lengths.ndim != 1 or not fits or (lengths < 0).any() or lengths.sum() != height * width:
        raise InputError(
            f"{file}: run lengths that do not fill {width} x {height} pixels: export again"
        )
    values = np.arange(len(lengths)) % 2
    return np.repeat(values.astype(np.uint8), lengths).reshape(width, height).T


def _decompress(text: bytes) -> np.ndarray:
    """Return the run lengths in COCO's compressed text.

    Every letter holds 5 bits of a number. From the fourth number on, the text stores the difference
    to the number two positions earlier.

    Raises:
        ValueError: if the text is not valid.
    """
    letters = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(letters) or (letters < 0).any() or (letters > 63).any() or letters[-1] & 0x20:
        raise ValueError("no run lengths")
    ends = np.flatnonzero(~letters & 0x20)
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts + 1
    if sizes.max() > 8:
        raise ValueError("a run length of more than 40 bits")
    shift = 5 * (np.arange(len(letters)) - np.repeat(starts, sizes))
    numbers = np.add.reduceat((letters & 0x1F) << shift, starts)
    numbers -= np.where(letters[ends] & 0x10, np.int64(1) << 5 * sizes, 0)
    for first in (1, 2):  # from the fourth on
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers
