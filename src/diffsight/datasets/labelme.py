"""Labels of labelme: a JSON file of shapes for every image."""

import base64
import binascii
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffsight.datasets.files import read_json
from diffsight.datasets.shapes import RESERVED, Shape, ShapeLabels, ShapeMap, check_hw
from diffsight.errors import InputError
from diffsight.label_maps import clean_name

CORNERS = 64  # of the polygon that a circle becomes


def read_labelme(folder: Path, files: Mapping[str, Path]) -> ShapeLabels:
    """Return the shapes of labelme's files as class maps.

    The classes are all labels in the files in alphabetical order, numbered from 1 on; 0 is the
    background. Shapes that are called ``background`` or ``no label`` are that. Later shapes of an
    image cover earlier ones.

    Args:
        folder: of the files.
        files: by the names of their images.

    Raises:
        InputError: if a file is not one of labelme.
    """
    rows = {name: _read(file) for name, file in files.items()}
    labels = sorted({label for _, shapes in rows.values() for label, _ in shapes} - RESERVED.keys())
    classes = dict(enumerate(labels, start=1))
    ids = {label: number for number, label in classes.items()} | RESERVED
    maps = {
        name: ShapeMap(files[name], hw, [Shape(ids[label], outline) for label, outline in shapes])
        for name, (hw, shapes) in rows.items()
    }
    return ShapeLabels(folder, maps, classes)


def is_labelme(data: Any) -> bool:
    """Return whether the content of a JSON file is that of labelme."""
    return isinstance(data, dict) and "shapes" in data and "imagePath" in data


def _read(file: Path) -> tuple[tuple[int, int], list[tuple[str, Any]]]:
    """Return the size of the image, and labels with outlines."""
    data = read_json(file)
    if not is_labelme(data):
        raise InputError(f"{file}: no file of labelme (shapes and imagePath): take it away")
    try:
        hw = check_hw(file, data["imageHeight"], data["imageWidth"])
        shapes = [
            (clean_name(str(one["label"])), _outline(file, one, hw)) for one in data["shapes"]
        ]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: a shape that cannot be read ({error}): save it again") from None
    return hw, shapes


def _outline(file: Path, shape: Mapping[str, Any], hw: tuple[int, int]) -> Any:
    """Return polygons, or a mask."""
    kind = shape.get("shape_type") or "polygon"
    points = np.asarray(shape["points"], np.float64).reshape(-1, 2)
    if kind == "polygon":
        return [points.flatten().tolist()]
    if kind == "rectangle":
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        return [[left, top, right, top, right, bottom, left, bottom]]
    if kind == "circle":
        centre, edge = points
        turns = np.arange(CORNERS) * 2 * np.pi / CORNERS
        corners = centre + np.linalg.norm(edge - centre) * np.stack(
            [np.cos(turns), np.sin(turns)], axis=1
        )
        return [corners.flatten().tolist()]
    if kind == "mask":
        return _mask(shape["mask"], points, hw)
    raise InputError(
        f"{file}: a shape of type {kind} has no area: draw polygons, rectangles, circles or masks"
    )


def _mask(text: str, points: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """Return a mask that is stored as the PNG of its box."""
    left, top = (round(value) for value in points[0].tolist())
    try:
        with Image.open(io.BytesIO(base64.b64decode(text)), formats=("PNG",)) as image:
            box = np.asarray(image.convert("L")) > 0
    except (OSError, SyntaxError, binascii.Error, Image.DecompressionBombError) as error:
        raise ValueError(f"damaged mask: {error}") from None
    if left < 0 or top < 0 or top + box.shape[0] > hw[0] or left + box.shape[1] > hw[1]:
        raise ValueError("a mask beyond the image")
    mask = np.zeros(hw, bool)
    mask[top : top + box.shape[0], left : left + box.shape[1]] = box
    return mask
