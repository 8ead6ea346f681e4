"""Read labels of single pixels from a table of points, typed by hand or made in a spreadsheet."""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from diffsight.datasets.class_lists import ClassList
from diffsight.datasets.depth import counts_per_metre
from diffsight.datasets.files import IMAGE_SUFFIXES, read_text
from diffsight.datasets.label_source import AbstractLabelSource
from diffsight.datasets.labels import HIGHEST_ID, Label, LabelFormat
from diffsight.datasets.pairs import normalise_name
from diffsight.errors import InputError
from diffsight.formats.text import parse_table, reading
from diffsight.label_maps import clean_name

POINT_SUFFIXES = frozenset({".csv", ".tsv"})
POSITION = ("image", "x", "y")
CHANNELS: Mapping[str, tuple[int, ...]] = {"normals": (3,), "vector": (2, 3)}
"""Allowed numbers of values per point by label kind, for kinds with several."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+", re.ASCII)
_ID = re.compile(r"\d{1,5}", re.ASCII)


@dataclass(frozen=True)
class Point:
    """A labelled pixel.

    Attributes:
        line: line number in the file, from 1.
        x: position in pixels from left to right; the centre of the top-left pixel is (0, 0).
        y: position in pixels from top to bottom.
        value: numbers in the unit of the file, or one class id.
    """

    line: int
    x: float
    y: float
    value: tuple[float, ...]

    @property
    def pixel(self) -> tuple[int, int]:
        """Row and column of the pixel in which the point lies."""
        return int(np.floor(self.y + 0.5)), int(np.floor(self.x + 0.5))


class PointLabels(AbstractLabelSource):
    """Labels of single pixels in many images; all other pixels have no label.

    Args:
        path: file of the points, for messages.
        kind: kind of the labels (see ``LabelFormat``).
        points: points by the name of their image, as ``name_of`` returns it.
        images: name of each image as the file spells it, by the same names.
        classes: ids and names of the classes, if the file has class names.
    """

    is_sparse = True

    def __init__(
        self,
        path: Path,
        kind: str,
        points: Mapping[str, Sequence[Point]],
        images: Mapping[str, str],
        classes: ClassList | None = None,
    ) -> None:
        self.path = path
        self.classes = classes
        count = sum(map(len, points.values()))
        self.notes = (f"{path.name}: {count} point(s) in {len(points)} image(s)",)
        self._kind = kind
        self._points = dict(points)
        self._images = dict(images)

    @property
    def names(self) -> Collection[str]:
        """Names of the labelled images, as ``name_of`` returns them."""
        return self._points.keys()

    def file(self, name: str) -> Path:
        """Return the file of the points."""
        return self.path

    def describe(self, name: str) -> str:
        """Return the line number of an image's first point and the image as the file spells it."""
        return f"line {self._points[name][0].line}, {self._images[name]}"

    def read(self, name: str, form: LabelFormat, hw: tuple[int, int]) -> Label:
        """Return a label map of size ``hw`` in which the pixels with a point are valid.

        Raises:
            InputError: if a point lies outside the image, two points in the same pixel contradict
                each other, or a value cannot be used.
        """
        first: dict[tuple[int, int], Point] = {}
        for point in self._points[name]:
            row, column = point.pixel
            if not (0 <= row < hw[0] and 0 <= column < hw[1]):
                raise InputError(
                    f"{self.path}, line {point.line}: ({point.x:g}, {point.y:g}) lies outside "
                    f"{self._images[name]}, which has {hw[1]} x {hw[0]} pixels: x goes from 0 to "
                    f"{hw[1] - 1} and y from 0 to {hw[0] - 1}, in the upright image"
                )
            other = first.setdefault(point.pixel, point)
            if other.value != point.value:
                raise InputError(
                    f"{self.path}, line {point.line}: contradicts line {other.line}, whose point "
                    f"is in the same pixel ({column}, {row}) of {self._images[name]}: keep one"
                )
        labelled = [p for p in first.values() if form.invalid not in p.value]
        if not labelled:
            raise InputError(
                f"{self.path}: no point of {self._images[name]} has a label; check --invalid"
            )
        rows, columns = np.array([point.pixel for point in labelled]).T
        values = np.zeros((len(labelled[0].value), *hw), np.float32)
        values[:, rows, columns] = np.array([self._in_unit(p, form) for p in labelled]).T
        valid = np.zeros(hw, bool)
        valid[rows, columns] = True
        return Label(torch.from_numpy(values), torch.from_numpy(valid))

    def digest(self, name: str) -> str:
        """Return a hash of the pixels and their values, which does not depend on their order."""
        names = self.classes.names if self.classes else {}
        content = sorted(
            (*point.pixel, [names[int(point.value[0])]] if names else list(point.value))
            for point in self._points[name]
        )
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _in_unit(self, point: Point, form: LabelFormat) -> Sequence[float]:
        """Return the value of a point in the unit of the task.

        Raises:
            InputError: if the value cannot be used.
        """
        location = f"{self.path}, line {point.line}"
        value = np.array(point.value)
        if self._kind == "depth":
            if form.unit in ("sunrgbd", "kinect-disparity"):
                raise InputError(f"{self.path}: points are in m, cm, mm or m/N: give --unit m")
            value = value / counts_per_metre(form.unit or "m")
            if not value[0] > 0:
                raise InputError(f"{location}: a depth of {value[0]:g} m: give one above 0")
        elif self._kind == "scalar":
            value = value / form.scale
        elif self._kind == "normals":
            length = np.linalg.norm(value)
            if not 0 < length < np.inf:
                raise InputError(f"{location}: a vector without a length: give a direction")
            value = value / length
        if np.abs(value).max() > np.finfo(np.float32).max:
            raise InputError(
                f"{location}: the value {np.abs(value).max():g} is too large for 32-bit floating "
                "point: correct it"
            )
        return value.tolist()


def read_points(path: Path, kind: str) -> PointLabels:
    """Return the points in a table, which has one line ``image,x,y,VALUE`` per point.

    x and y are pixels of the upright image; the centre of the top-left pixel is (0, 0). The value
    is one number (depth in metres, scalars), a class id or class name, three numbers (normals), or
    two or three numbers (vectors). Commas, semicolons or tabs separate the fields. If the first
    line has the column titles ``image``, ``x`` and ``y``, the columns may have another order.

    Class names get ids from 0 in alphabetical order.

    Args:
        path: file of the table.
        kind: kind of the labels (see ``LabelFormat``).

    Raises:
        InputError: if the table cannot be used; the message names the line and the repair.
    """
    text = read_text(path, "a table of points")
    with reading(path, "no table of points ({reason}): correct it"):
        rows = parse_table(text)
    columns, rows = _columns(path, kind, rows)
    count = _value_count(kind, columns, rows)
    lines = [
        (line, _fields(f"{path}, line {line}", kind, columns, row, count)) for line, row in rows
    ]
    classes = _class_names(row[3] for _, row in lines) if kind == "segmentation" else []
    ids = {name: float(id) for id, name in enumerate(classes)}
    points: dict[str, list[Point]] = {}
    images: dict[str, str] = {}
    for line, (image, x, y, *value) in lines:
        location = f"{path}, line {line}"
        name = _image_key(image)
        suffixes = {_suffix(images.setdefault(name, image)), _suffix(image), ""}
        if len(suffixes) > 2:
            raise InputError(
                f"{location}: {image} and {images[name]} are one name without the suffix: rename "
                "one of the images"
            )
        if classes:
            numbers = (ids[clean_name(value[0])],)
        else:
            numbers = tuple(_parse_number(location, one) for one in value)
        point = Point(line, _parse_number(location, x), _parse_number(location, y), numbers)
        if kind == "segmentation" and numbers[0] > HIGHEST_ID:
            raise InputError(f"{location}: class ids go from 0 to {HIGHEST_ID}: correct {value[0]}")
        points.setdefault(name, []).append(point)
    names = ClassList(dict(enumerate(classes)), "id") if classes else None
    return PointLabels(path, kind, points, images, names)


def _columns(
    path: Path, kind: str, rows: list[tuple[int, list[str]]]
) -> tuple[list[int], list[tuple[int, list[str]]]]:
    """Return the indices of the columns image, x, y and values, and the rows without the titles.

    If there are no titles, the list of indices is empty, and the columns have this order.

    Raises:
        InputError: if two columns have the same title, or there are no rows.
    """
    if rows:
        titles = [field.casefold() for field in rows[0][1]]
        if set(POSITION) <= set(titles):
            for title in titles:
                if title and titles.count(title) > 1:
                    raise InputError(f"{path}: two columns are called {title!r}: keep one")
            values = [i for i, title in enumerate(titles) if title not in ("", *POSITION)]
            return [*(titles.index(title) for title in POSITION), *values], _require_rows(
                path, kind, rows[1:]
            )
    return [], _require_rows(path, kind, rows)


def _require_rows(
    path: Path, kind: str, rows: list[tuple[int, list[str]]]
) -> list[tuple[int, list[str]]]:
    """Return the rows, or raise an error if there are none."""
    if not rows:
        raise InputError(f"{path}: holds no point: write a line '{_line_template(kind)}' for each")
    return rows


def _line_template(kind: str) -> str:
    """Return the template of a line, for messages."""
    values = {"segmentation": "class", "normals": "nx,ny,nz", "vector": "v1,v2"}
    return f"image,x,y,{values.get(kind, 'value')}"


def _value_count(kind: str, columns: list[int], rows: list[tuple[int, list[str]]]) -> int:
    """Return the number of values per point; for vectors, that of the first row."""
    counts = CHANNELS.get(kind, (1,))
    first = len(columns or rows[0][1]) - len(POSITION)
    return first if first in counts else counts[0]


def _fields(
    location: str, kind: str, columns: list[int], fields: list[str], count: int
) -> list[str]:
    """Return image, x, y and the values of a line.

    Raises:
        InputError: if the number of fields is wrong, or a field is empty.
    """
    needed = len(POSITION) + count
    width = max(columns, default=needed - 1) + 1
    while len(fields) > width and not fields[-1]:
        fields = fields[:-1]
    if (columns and len(columns) != needed) or len(fields) != width:
        raise InputError(
            f"{location}: {len(columns or fields)} fields instead of {needed}: write "
            f"{_line_template(kind)}, numbers with a decimal point, names with commas in quotes"
        )
    chosen = [fields[column] for column in columns] if columns else fields
    for title, field in zip((*POSITION, *["the value"] * count), chosen, strict=True):
        if not field:
            raise InputError(f"{location}: {title} is empty: write {_line_template(kind)}")
    return chosen


def _parse_number(location: str, text: str) -> float:
    """Return a finite number with a decimal point.

    Raises:
        InputError: if the text is anything else; the message begins with ``location``.
    """
    if _DECIMAL_COMMA.fullmatch(text):
        point = text.replace(",", ".")
        raise InputError(f"{location}: {text} has a decimal comma: write {point}")
    if not _NUMBER.fullmatch(text) or not np.isfinite(number := float(text)):
        raise InputError(
            f"{location}: {text!r} is no number: correct it (the titles of the columns are image, "
            "x and y)"
        )
    return number


def _image_key(image: str) -> str:
    """Return the name of an image as ``name_of`` does, but remove only suffixes of images."""
    name = PurePosixPath(image.replace("\\", "/")).as_posix()
    return normalise_name(name[: len(name) - len(_suffix(image))]).casefold()


def _suffix(image: str) -> str:
    """Return the suffix of an image file; empty if there is none."""
    suffix = PurePosixPath(image).suffix.lower()
    return suffix if suffix in IMAGE_SUFFIXES else ""


def _class_names(values: Iterable[str]) -> list[str]:
    """Return the class names in alphabetical order; empty if all of them are whole numbers."""
    names = sorted({clean_name(value) for value in values})
    return [] if all(_ID.fullmatch(name) for name in names) else names
