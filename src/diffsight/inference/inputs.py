"""Convert images and boxes of people of any type to tensors."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffsight.datasets.files import damaged_file_error, read_image, upright_rgb
from diffsight.errors import InputError
from diffsight.types import People

PIXELS = ((), (3,), (4,))  # shapes of a pixel: grey, RGB, RGBA


def to_people(boxes: Any, hw: tuple[int, int], name: str = "boxes") -> People:
    """Return boxes as people with a score of 1.

    Args:
        boxes: rows of left, top, right and bottom in pixels.
        hw: height and width of their image in pixels.
        name: beginning of messages.

    Raises:
        InputError: if ``boxes`` are not such rows, or a box is empty or outside of the image.
    """
    rows = "rows of left, top, right and bottom in pixels"
    try:
        edges = torch.as_tensor(np.asarray(boxes, dtype=np.float32)).reshape(-1, 4)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name}: not rows of four numbers: give {rows}") from None
    height, width = hw
    for box in edges.tolist():
        left, top, right, bottom = box
        if not (left < right and top < bottom):  # this form of the condition also refuses NaN
            raise InputError(f"{name}: a box is empty: give {rows}, not {box}")
        if not (left < width and top < height and right > 0 and bottom > 0):
            raise InputError(
                f"{name}: the box {box} lies outside of its image of {width} x {height} px: "
                "correct it, or use the original image"
            )
    return People.of_boxes(edges, torch.ones(len(edges)))


def to_tensor(image: Any, name: str = "image") -> Tensor:
    """Return an image as a tensor ``3 h w``, uint8 or float in [0, 1].

    Args:
        image: bytes of a file, a PIL image, an array or a tensor.
        name: name of the image, for messages.

    Raises:
        InputError: if the file is damaged, or shape, type or range are not those of an image.
    """
    if isinstance(image, bytes):
        return read_image(name, image)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        if image.ndim < 2 or image.shape[2:] not in PIXELS or not image.size:
            raise InputError(f"{name}: array of shape {image.shape}: give (height, width, 3)")
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        return _pixels(image, name)
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3:
            raise InputError(f"{name}: array of shape {image.shape}: give (height, width, 3)")
        image = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    if not isinstance(image, Tensor):
        kinds = "a path, a PIL image, an array, a tensor or the bytes of a file"
        raise InputError(f"{name}: {type(image).__name__} is not an image: give {kinds}")
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise InputError(f"{name}: tensor of shape {tuple(image.shape)}: give (3, height, width)")
    if image.dtype == torch.uint8:
        return image
    if not image.dtype.is_floating_point:
        raise InputError(f"{name}: dtype {image.dtype}: give uint8, or floats in [0, 1]")
    low, high = image.min().item(), image.max().item()
    # this form of the condition is also true for NaN
    if not (low >= 0 and high <= 1):
        raise InputError(f"{name}: values from {low:g} to {high:g}: scale floats to [0, 1]")
    return image.float()


def _pixels(image: Image.Image, name: str) -> Tensor:
    """Return the pixels of a PIL image; this reads its file if PIL has not read it yet.

    Raises:
        InputError: if the file is damaged, or the image cannot be used.
    """
    try:
        return torch.from_numpy(upright_rgb(name, image)).permute(2, 0, 1)
    except InputError:
        raise
    except Exception as error:  # decoders raise many types of errors for damaged files
        raise damaged_file_error(Path(name), error) from error
