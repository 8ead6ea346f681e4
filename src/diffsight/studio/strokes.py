"""Strokes: the labels that a user paints on an image, and the label map that they make."""

import contextlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw

from diffsight.errors import InputError

MAX_POINTS = 20_000
MAX_RADIUS_PX = 10_000.0
MAX_POSITION_PX = 1_000_000.0
MAX_VALUE = 1e30  # of a scalar; larger numbers overflow float32 when they are squared
NO_LABEL = -1.0
_NAME = re.compile(r"[0-9A-Za-z_-]{1,64}")
_KEYS = frozenset({"id", "tab", "tool", "value", "radius", "points"})
Number = int | float
Point = tuple[Number, Number]


@dataclass(frozen=True)
class Stroke:
    """A line with round ends that labels pixels, or erases their labels.

    Attributes:
        id: name that the page gave to the stroke.
        tab: name of the browser tab that drew it; undo works per tab.
        tool: ``paint`` or ``erase``.
        value: class id, or the number in the unit of a scalar; None for ``erase``.
        radius: half the width of the line, in pixels of the original image.
        points: x and y in pixels of the original image; (0, 0) is the corner of its first pixel.
        number: number of the record with which it was stored.
        is_undone: whether it was undone and is not part of the labels.
        turned: number of the record that undid or redid it last; 0 without one.
    """

    id: str
    tab: str
    tool: Literal["paint", "erase"]
    value: Number | None
    radius: Number
    points: tuple[Point, ...]
    number: int = 0
    is_undone: bool = False
    turned: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the stroke as plain data, with the key ``undone``."""
        return {
            "id": self.id,
            "tab": self.tab,
            "tool": self.tool,
            "value": self.value,
            "radius": self.radius,
            "points": [list(point) for point in self.points],
            "number": self.number,
            "undone": self.is_undone,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Stroke":
        """Return a stroke that ``to_json`` wrote."""
        rest = {key: data[key] for key in ("id", "tab", "tool", "value", "radius")}
        points = tuple((x, y) for x, y in data["points"])
        number, is_undone, turned = data["number"], data["undone"], data.get("turned", 0)
        return cls(**rest, points=points, number=number, is_undone=is_undone, turned=turned)

    def undone(self, is_undone: bool, number: int = 0) -> "Stroke":
        """Return the stroke, undone or not by the record with this number."""
        return replace(self, is_undone=is_undone, turned=number)

    def touches(self, width: int, height: int) -> bool:
        """Return whether the stroke can label a pixel of an image of this size."""
        r = self.radius
        return any(-r < x < width + r and -r < y < height + r for x, y in self.points)


def parse_stroke(data: Any, class_ids: Iterable[int] | None) -> Stroke:
    """Return a stroke that a page has sent.

    Args:
        data: plain data.
        class_ids: valid values of ``paint``; None for a scalar, whose values are numbers.

    Raises:
        InputError: if a key is missing or unknown, or a value has the wrong type or range.
    """
    if (
        not isinstance(data, dict)
        or not data.keys() <= _KEYS
        or not data.keys() >= _KEYS - {"value"}
    ):
        raise InputError(f"a stroke is an object with the keys {', '.join(sorted(_KEYS))}")
    if data["tool"] not in ("paint", "erase"):
        raise InputError("the tool of a stroke must be 'paint' or 'erase'")
    radius = _number(data["radius"], "the radius of a stroke")
    if not 0 < radius <= MAX_RADIUS_PX:
        raise InputError(f"the radius of a stroke must be above 0 and at most {MAX_RADIUS_PX:g} px")
    value = None if data["tool"] == "erase" else _value(data.get("value"), class_ids)
    return Stroke(
        id=parse_name(data["id"], "the id of a stroke"),
        tab=parse_name(data["tab"], "the tab of a stroke"),
        tool=data["tool"],
        value=value,
        radius=radius,
        points=_points(data["points"]),
    )


def parse_name(data: Any, subject: str) -> str:
    """Return a name that a page has chosen.

    Raises:
        InputError: if it is not a short text of letters, digits, ``-`` and ``_``.
    """
    if not isinstance(data, str) or not _NAME.fullmatch(data):
        raise InputError(f"{subject} must be a text of 1 to 64 letters, digits, - or _")
    return data


def _value(data: Any, class_ids: Iterable[int] | None) -> Number:
    """Return a class id, or the value of a scalar.

    Raises:
        InputError: if there is no such class, or it is not a finite number.
    """
    if class_ids is None:
        value = _number(data, "the value of a stroke")
        if abs(value) > MAX_VALUE:
            raise InputError(
                f"the value of a stroke must be between -{MAX_VALUE:g} and {MAX_VALUE:g}"
            )
        return value
    ids = list(class_ids)
    if isinstance(data, bool) or not isinstance(data, int) or data not in ids:
        listed = ", ".join(map(str, ids)) or "there is none yet: add a class first"
        raise InputError(f"the value of a stroke must be the id of a class ({listed})")
    return data


def _points(data: Any) -> tuple[Point, ...]:
    """Return the points of a stroke.

    Raises:
        InputError: if they are not pairs of finite numbers, or there are too many of them.
    """
    if not isinstance(data, list) or not data:
        raise InputError("the points of a stroke must be a list of pairs [x, y], at least one")
    if len(data) > MAX_POINTS:
        raise InputError(
            f"a stroke of {len(data):,} points is too long: send at most {MAX_POINTS:,} points"
        )
    points = []
    for pair in data:
        if not isinstance(pair, list) or len(pair) != 2:
            raise InputError("the points of a stroke must be pairs [x, y] of numbers")
        x, y = (_number(one, "a coordinate of a stroke") for one in pair)
        if max(abs(x), abs(y)) > MAX_POSITION_PX:
            raise InputError(
                f"a point of a stroke is at ({x:.9g}, {y:.9g}) px: send coordinates between "
                f"-{MAX_POSITION_PX:,.0f} and {MAX_POSITION_PX:,.0f}"
            )
        points.append((x, y))
    return tuple(points)


def _number(data: Any, subject: str) -> float:
    number = math.nan
    if isinstance(data, int | float) and not isinstance(data, bool):
        with contextlib.suppress(OverflowError):  # an integer of hundreds of digits
            number = float(data)
    if not math.isfinite(number):
        raise InputError(f"{subject} must be a finite number")
    return number


@dataclass
class LabelMap:
    """The labels of an image at some size.

    Attributes:
        values: class ids, or numbers in the unit of a scalar; any number where not labelled.
        is_labelled: pixels with a label.
        is_erased: pixels whose last stroke erased their label.
    """

    values: Float[np.ndarray, "h w"]
    is_labelled: Bool[np.ndarray, "h w"]
    is_erased: Bool[np.ndarray, "h w"]

    @property
    def is_empty(self) -> bool:
        """Whether no pixel has a label."""
        return not self.is_labelled.any()

    def over(self, base: "LabelMap") -> "LabelMap":
        """Return these labels, and those of ``base`` where nothing was painted or erased."""
        is_open = ~(self.is_labelled | self.is_erased)
        return LabelMap(
            np.where(is_open, base.values, self.values),
            self.is_labelled | (is_open & base.is_labelled),
            self.is_erased,
        )


def draw_strokes(strokes: Sequence[Stroke], size: tuple[int, int], hw: tuple[int, int]) -> LabelMap:
    """Return the label map of strokes, in their order; strokes that were undone are left out.

    Args:
        strokes: strokes in pixels of the original image.
        size: width and height of the original image in pixels.
        hw: height and width of the map.
    """
    height, width = hw
    # two planes: 1 for painted and 2 for erased pixels, and the value of the paint
    states, values = Image.new("L", (width, height)), Image.new("F", (width, height))
    pens = ImageDraw.Draw(states), ImageDraw.Draw(values)
    scale = width / size[0], height / size[1]
    for stroke in strokes:
        if stroke.is_undone:
            continue
        for name, points in _shapes(stroke, scale):
            getattr(pens[0], name)(points, fill=2 if stroke.value is None else 1)
            if stroke.value is not None:
                getattr(pens[1], name)(points, fill=stroke.value)
    state = np.asarray(states)
    return LabelMap(np.array(values, dtype=np.float32), state == 1, state == 2)


def _shapes(stroke: Stroke, scale: tuple[float, float]) -> Iterable[tuple[str, tuple[Point, ...]]]:
    """Yield the shapes of a stroke: names of methods of ``ImageDraw``, and their points.

    Points that are nearer to the last one than a quarter of a pixel are skipped. A stroke is at
    least one pixel wide, so that a thin one does not vanish when the map is smaller than the image.
    """
    radius = stroke.radius * math.sqrt(scale[0] * scale[1])
    # PIL also fills the pixels on the border, which would make shapes wider
    circle, half_width = radius - 0.5, radius - 0.4
    last: Point | None = None
    for x, y in stroke.points:
        # PIL counts from the centre of the first pixel
        x, y = x * scale[0] - 0.5, y * scale[1] - 0.5
        if last is not None and math.hypot(x - last[0], y - last[1]) < 0.25:
            continue
        yield "point", ((round(x), round(y)),)
        if circle > 0.5:
            yield "ellipse", ((x - circle, y - circle), (x + circle, y + circle))
        if last is not None:
            ends = (round(last[0]), round(last[1])), (round(x), round(y))
            yield (
                ("polygon", _rectangle(last, (x, y), half_width)) if circle > 0 else ("line", ends)
            )
        last = x, y


def _rectangle(start: Point, end: Point, half_width: float) -> tuple[Point, ...]:
    """Return the corners of a rectangle around a line."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy)
    nx, ny = -dy / length * half_width, dx / length * half_width
    return (
        (start[0] + nx, start[1] + ny),
        (end[0] + nx, end[1] + ny),
        (end[0] - nx, end[1] - ny),
        (start[0] - nx, start[1] - ny),
    )
