"""Check that the pixels of an image file are exactly the stored label values."""

import io
import re
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from diffsight.datasets.files import read_bytes
from diffsight.errors import InputError

_PPM_HEADER = re.compile(rb"P6" + rb"(?:\s|#[^\n]*\n)+(\d{1,9})" * 3 + rb"\s")
_BITS_PER_SAMPLE = 258  # tag of TIFF


def require_lossless(path: Path, image: Image.Image) -> None:
    """Raise an error if the compression of the image is lossy.

    Args:
        path: path of the image.
        image: opened image.

    Raises:
        InputError: if it is lossy, since values near edges are then wrong.
    """
    name = image.format
    if name == "TIFF":
        is_lossy = str(image.info.get("compression")) in ("jpeg", "tiff_jpeg", "webp")
    elif name == "WEBP":
        is_lossy = _is_lossy_webp(read_bytes(path))
    else:
        is_lossy = name == "JPEG"
    if is_lossy:
        raise InputError(
            f"{path}: lossy compression ({name}) changes values at every edge: save the original "
            "labels as PNG, or give --snap for class masks"
        )


def _is_lossy_webp(data: bytes) -> bool:
    """Return whether the first image chunk of a WebP file is lossy."""
    start = 12
    while start + 8 <= len(data):
        kind, length = (
            data[start : start + 4],
            int.from_bytes(data[start + 4 : start + 8], "little"),
        )
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8 "
        start += 8 + length + length % 2
    return True


def require_all_bits(path: Path, image: Image.Image, kind: str) -> None:
    """Raise an error if the file stores several channels of more than 8 bits.

    Pillow reads 8 bits of each channel then, and keeps 16 bits only if there is one channel.

    Args:
        path: path of the image.
        image: opened image.
        kind: kind of the labels (see ``LabelFormat``).

    Raises:
        InputError: if bits would be lost.
    """
    if image.mode not in ("RGB", "RGBA", "LA"):
        return
    bits = _count_bits(read_bytes(path))
    if bits > 8:
        has_vectors = kind in ("normals", "vector")
        repair = "an NPY file" if has_vectors else "a 16-bit PNG with one channel, or as NPY"
        raise InputError(
            f"{path}: several channels of {bits} bits, of which only 8 can be read: save it as "
            f"{repair}"
        )


def _count_bits(data: bytes) -> int:
    """Return the number of bits per channel in a PNG, TIFF or PPM file; 8 for other formats."""
    if data.startswith(b"\x89PNG"):
        return data[24]
    if header := _PPM_HEADER.match(data):
        return int(header[3]).bit_length()
    if data[:2] not in (b"II", b"MM"):
        return 8
    with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
        return max(image.getexif().get(_BITS_PER_SAMPLE, (8,)))


def opaque_pixels(image: Image.Image) -> Bool[np.ndarray, "h w"] | None:
    """Return a mask of the pixels that are not fully transparent; None without transparency."""
    if not image.has_transparency_data:
        return None
    if image.mode.startswith("I"):  # Pillow cannot convert it, and stores the transparent value
        return np.array(image) != image.info["transparency"]
    return np.array(image.convert("RGBA").getchannel("A")) > 0
