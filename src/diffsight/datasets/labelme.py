"""Read class maps from labelme's JSON files, which contain the shapes of one image each."""

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

CORNERS = 64  # number of corners of the polygon that replaces a circle


def read_labelme(path: Path, files: Mapping[str, Path]) -> ShapeLabels:
    """Return the shapes in labelme's files as class maps.

    The classes are the shapes' labels in alphabetical order, numbered from 1; 0 is the background.
    A shape called ``background`` is background, and pixels of a shape called ``no label`` have no
    label. Later shapes of an image cover earlier ones.

    Args:
        path: folder of the files, or the only file; for messages.
        files: paths of the files by the name of the image.

    Raises:
        InputError: if a file is not a labelme file, or a shape cannot be read.
    """
    rows = {name: _read(file) for name, file in files.items()}
    labels = sorted({label for _, shapes in rows.values() for label, _ in shapes} - RESERVED.keys())
    classes = dict(enumerate(labels, start=1))
    ids = {label: number for number, label in classes.items()} | RESERVED
    maps = {
        name: ShapeMap(files[name], hw, [Shape(ids[label], outline) for label, outline in shapes])
        for name, (hw, shapes) in rows.items()
    }
    return ShapeLabels(path, maps, classes)


def is_labelme(data: Any) -> bool:
    """Return whether parsed JSON is the content of a labelme file."""
    return isinstance(data, dict) and "shapes" in data and "imagePath" in data


def _read(file: Path) -> tuple[tuple[int, int], list[tuple[str, Any]]]:
    """Return height and width of the image, and the label and outline of each shape.

    Raises:
        InputError: if the file is not a labelme file, or a shape cannot be read.
    """
    data = read_json(file)
    if not is_labelme(data):
        raise InputError(f"{file}: not a labelme file (it lacks shapes or imagePath): remove it")
    try:
        hw = check_hw(file, data["imageHeight"], data["imageWidth"])
        shapes = [
            (clean_name(str(shape["label"])), _read_outline(file, shape, hw))
            for shape in data["shapes"]
        ]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: cannot read a shape ({error}): save the file again") from None
    return hw, shapes


def _read_outline(file: Path, shape: Mapping[str, Any], hw: tuple[int, int]) -> Any:
    """Return the outline of a shape as a list of polygons, or as a mask ``h w``.

    Raises:
        InputError: if the shape has no area, such as a line.
        ValueError: if a mask is damaged.
    """
    kind = shape.get("shape_type") or "polygon"
    points = np.asarray(shape["points"], np.float64).reshape(-1, 2)
    if kind == "polygon":
        return [points.flatten().tolist()]
    if kind == "rectangle":
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        return [[left, top, right, top, right, bottom, left, bottom]]
    if kind == "circle":
        centre, edge = points
        angles = np.arange(CORNERS) * 2 * np.pi / CORNERS
        corners = centre + np.linalg.norm(edge - centre) * np.stack(
            [np.cos(angles), np.sin(angles)], axis=1
        )
        return [corners.flatten().tolist()]
    if kind == "mask":
        return _decode_mask(shape["mask"], points, hw)
    raise InputError(
        f"{file}: a shape of type {kind} has no area: draw a polygon, rectangle, circle or mask"
    )


def _decode_mask(text: str, points: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """Return a mask ``h w`` of the whole image.

    Args:
        text: PNG of the part inside the mask's bounding box, in Base64.
        points: corners of the bounding box; the first is its top-left pixel.
        hw: height and width of the image.

    Raises:
        ValueError: if the mask is damaged, or outside the image.
    """
    left, top = (round(value) for value in points[0].tolist())
    try:
        with Image.open(io.BytesIO(base64.b64decode(text)), formats=("PNG",)) as image:
            box = np.asarray(image.convert("L")) > 0
    except (OSError, SyntaxError, binascii.Error, Image.DecompressionBombError) as error:
        raise ValueError(f"damaged mask: {error}") from None
    if left < 0 or top < 0 or top + box.shape[0] > hw[0] or left + box.shape[1] > hw[1]:
        raise ValueError("its mask extends beyond the image")
    mask = np.zeros(hw, bool)
    mask[top : top + box.shape[0], left : left + box.shape[1]] = box
    return mask
