"""Labels that are polygons and run lengths: rasterised as the tools of COCO do."""

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
"""Class ids of shapes with these names: pixels of the background, and pixels without a label."""
FARTHEST = 10  # times the longer side, that a corner may lie outside the image


@dataclass(frozen=True)
class Shape:
    """A region of one class.

    Attributes:
        class_id: of its pixels; see ``RESERVED``.
        outline: polygons ``[[x, y, x, y, ...], ...]``, whose union it is; run lengths of COCO
            (``size`` and ``counts``); or a mask ``h w``.
    """

    class_id: int
    outline: Any


@dataclass(frozen=True)
class Box:
    """A box around an object whose outline is not known.

    Attributes:
        class_id: of the object.
        edges: left, top, right and bottom in pixels; the image's top-left corner is (0, 0).
    """

    class_id: int
    edges: tuple[float, float, float, float]


@dataclass(frozen=True)
class ShapeMap:
    """The shapes of an image: later ones cover earlier ones.

    Attributes:
        file: that holds them, for messages.
        hw: height and width of the image.
        shapes: in their order.
        boxes: of further objects.
    """

    file: Path
    hw: tuple[int, int]
    shapes: Sequence[Shape]
    boxes: Sequence[Box] = ()


class ShapeLabels(AbstractLabelSource):
    """Shapes by the names of their images; pixels without a shape are background, id 0.

    Pixels of a shape that is called ``no label`` have no label, nor have those of a box that are in
    no shape.

    Args:
        path: file or folder.
        maps: by name.
        classes: ids and names, without the background.
        notes: for the user.
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
        """Names in the form of ``files_by_name``."""
        return self._maps.keys()

    def file(self, name: str) -> Path:
        """Return the file that holds the shapes."""
        return self._maps[name].file

    def read(self, name: str, form: LabelFormat, hw: tuple[int, int]) -> Label:
        """Return the class of every pixel."""
        one = self._maps[name]
        ids = np.zeros(one.hw, np.float32)
        for box in one.boxes:
            left, top, right, bottom = box.edges
            ids[math.floor(top) : math.ceil(bottom), math.floor(left) : math.ceil(right)] = -1
        for shape in one.shapes:
            ids[rasterise(one.file, shape.outline, one.hw)] = shape.class_id
        label = Label(torch.from_numpy(ids.clip(min=0))[None], torch.from_numpy(ids >= 0))
        if one.boxes:
            label = replace(label, boxes=_boxes(one.boxes))
        return label if form.invalid is None else label.without(form.invalid)

    def digest(self, name: str) -> str:
        """Return a hash of the shapes with the names of their classes."""
        one = self._maps[name]
        names = {RESERVED[NO_LABEL]: NO_LABEL, **(self.classes.names if self.classes else {})}
        content = [
            [
                names[s.class_id],
                s.outline.tolist() if isinstance(s.outline, np.ndarray) else s.outline,
            ]
            for s in one.shapes
        ]
        boxes = [[names[box.class_id], box.edges] for box in one.boxes]
        text = json.dumps([one.hw, content, *boxes], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def _boxes(boxes: Sequence[Box]) -> Boxes:
    class_ids = torch.tensor([box.class_id for box in boxes])
    edges = torch.tensor([box.edges for box in boxes])
    return Boxes(class_ids, edges, torch.ones(len(boxes), dtype=torch.bool), RESERVED[BACKGROUND])


def rasterise(file: Path, outline: Any, hw: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Return the pixels of a shape, exactly as pycocotools draws it.

    Args:
        file: for messages.
        outline: see ``Shape``.
        hw: height and width of the image.

    Raises:
        InputError: if it is no outline in an image of this size.
    """
    if isinstance(outline, np.ndarray):
        return outline
    return count_parts(file, outline, hw) > 0


def count_parts(file: Path | str, outline: Any, hw: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Return how many parts of a segmentation of COCO cover every pixel.

    Args:
        file: for messages.
        outline: polygons or run lengths.
        hw: height and width of the image.

    Raises:
        InputError: if it is no outline in an image of this size.
    """
    height, width = hw
    if isinstance(outline, Mapping):
        return _decode_runs(file, outline, hw)
    if not isinstance(outline, Sequence) or not outline:
        raise InputError(f"{file}: holds an outline that is no polygon or RLE: export it again")
    from faster_coco_eval.core import mask as coco  # a fifth of a second

    total = np.zeros(hw, np.uint16)
    for part in outline:
        corners = _corners(file, part, max(hw))
        (runs,) = coco.frPyObjects([corners], height, width)
        total += coco.decode(runs)
    return total.clip(max=255).astype(np.uint8)


def check_hw(file: Path, height: Any, width: Any) -> tuple[int, int]:
    """Return the size of an image in a file of shapes.

    Raises:
        InputError: if it is none.
    """
    for side in (height, width):
        if not isinstance(side, int) or isinstance(side, bool) or side < 1:
            raise InputError(f"{file}: an image of {width} x {height} pixels: export it again")
    if height * width > MAX_PIXELS:
        raise InputError(f"{file}: an image of {width} x {height} pixels: scale it down")
    return height, width


def _corners(file: Path | str, part: Any, side: int) -> list[float]:
    try:
        corners = np.asarray(part, np.float64)
    except (TypeError, ValueError):
        corners = np.empty(0)
    if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2:
        raise InputError(f"{file}: a polygon has three corners (x, y) or more: correct the outline")
    # the C code reserves memory for every point between two corners
    if not (np.abs(corners) <= FARTHEST * side).all():
        raise InputError(f"{file}: a corner lies far outside the image: correct the outline")
    return corners.tolist()


def _decode_runs(
    file: Path | str, runs: Mapping[str, Any], hw: tuple[int, int]
) -> UInt8[np.ndarray, "h w"]:
    """Return a mask of run lengths, plain or compressed; columns come one after another."""
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
    """Return the run lengths in COCO's text: 5 bits a letter, then differences to the last but one.

    Raises:
        ValueError: if it is no such text.
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
