"""Read and write depth maps."""

import contextlib
import re
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image, PngImagePlugin
from torch import Tensor

from diffsight.atomic import replacing
from diffsight.datasets.files import (
    check_size,
    damaged_file_error,
    decode,
    read_array,
    read_bytes,
)
from diffsight.errors import InputError

DEPTH_SUFFIXES = frozenset({".npy", ".pgm", ".png", ".tif", ".tiff"})

_DEPTH_FORMATS = ("PNG", "TIFF")
_UNITS = {"m": 1.0, "cm": 100.0, "mm": 1000.0}  # counts per metre
_PGM_GAP = rb"(?:\s|#[^\n]*\n)+"  # white space and comments between the numbers of a header
_PGM_HEADER = re.compile(rb"P5" + (_PGM_GAP + rb"(\d{1,9})") * 3 + rb"\s")


def read_depth(
    path: str | Path, encoding: str = "mm", invalid: int | float = 0
) -> tuple[Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """Return a depth map in metres, and a mask of the pixels with a measurement.

    Args:
        path: 8- or 16-bit PNG or PGM, TIFF with one channel, or a 2-D NPY array of numbers.
        encoding: unit of one stored count: ``mm``, ``cm``, ``m`` or ``m/N`` for N counts per metre
            (KITTI ``m/256``, TUM ``m/5000``); or ``sunrgbd`` (millimetres as 16-bit integers that
            are rotated left by 3 bits); or ``kinect-disparity`` (11-bit raw values v of the first
            Kinect, with a depth of ``351.3 / (1092.5 - v)`` metres).
        invalid: count that means "no measurement"; 0, NaN and infinity always do.

    Returns:
        Depth in metres (0 where not valid), and the validity mask.

    Raises:
        InputError: if the file cannot be read, contains colours, a negative depth or no depth at
            all, or if the encoding is unknown or does not fit the file.
    """
    path = Path(path)
    check_encoding(encoding)
    counts = read_counts(path)
    if encoding == "kinect-disparity":
        counts = _kinect_byte_order(path, counts)
    metres = _to_metres(path, counts, encoding)
    with np.errstate(over="ignore"):
        depth_m = metres.astype(np.float32)  # values beyond the range of float32 become infinite
    measured = np.isfinite(depth_m) & (counts != invalid)
    negative = measured & (metres < 0)
    if negative.any():
        raise InputError(
            f"{path}: {negative.sum()} of {metres.size} pixels have a negative depth "
            f"(lowest {metres[measured].min():g} m); if this value marks missing depth, give it "
            "as the invalid value"
        )
    valid = measured & (depth_m > 0)
    if not valid.any():
        raise InputError(
            f"{path}: no pixel has a depth (all {metres.size} are 0, {invalid:g} or not finite); "
            "check the invalid value, or remove this file"
        )
    return torch.from_numpy(np.where(valid, depth_m, np.float32(0))), torch.from_numpy(valid)


def check_encoding(encoding: str) -> None:
    """Raise an error if ``read_depth`` does not support the encoding.

    Raises:
        InputError: if the encoding is unknown.
    """
    if encoding not in ("sunrgbd", "kinect-disparity"):
        counts_per_metre(encoding)


def write_depth_png(
    path: str | Path, depth_m: Float[Tensor, "h w"], valid: Bool[Tensor, "h w"]
) -> None:
    """Write a depth map as 16-bit PNG of millimetres.

    Pixels without a valid depth, and those beyond 65.535 m, become 0. Text chunks of the file state
    the unit and the invalid value. ``read_depth(path, "mm")`` reads the file.

    Args:
        path: path of the PNG file.
        depth_m: depth in metres.
        valid: mask of pixels with a depth.

    Raises:
        InputError: if the file cannot be written; an existing file is then unchanged.
    """
    counts = (depth_m.double() * 1000).round()
    fits = valid & (counts > 0) & (counts <= 65535)
    values = torch.where(fits, counts, 0).to(torch.int32).cpu().numpy().astype(np.uint16)
    notes = PngImagePlugin.PngInfo()
    notes.add_text("depth_unit", "mm")
    notes.add_text("depth_invalid", "0")
    with replacing(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG", pnginfo=notes)


def read_counts(path: Path) -> np.ndarray:
    """Return the stored numbers of a depth file as an array ``h w``.

    Raises:
        InputError: if the file cannot be read, or does not contain one number per pixel.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _read_npy(path)
    if suffix == ".pgm":
        return _read_pgm(path)
    return decode(path, _DEPTH_FORMATS, lambda image: _read_channel(path, image))


def _read_channel(path: Path, image: Image.Image) -> np.ndarray:
    """Return the pixels of an image with one channel.

    Raises:
        InputError: if the image has colours.
    """
    if image.mode not in ("L", "F") and not image.mode.startswith("I"):
        raise InputError(
            f"{path}: a colour image (mode {image.mode}), not a depth map; give the file with one "
            "channel of counts (16-bit PNG or NPY)"
        )
    return np.array(image)


def _read_npy(path: Path) -> np.ndarray:
    """Return the array ``h w`` in an NPY file, whose shape may also be ``1 h w`` or ``h w 1``.

    Raises:
        InputError: if the file cannot be read, or its array has another shape.
    """
    counts = read_array(path)
    if counts.ndim == 3 and 1 in (counts.shape[0], counts.shape[2]):
        counts = counts[0] if counts.shape[0] == 1 else counts[..., 0]
    if counts.ndim != 2:
        raise InputError(
            f"{path}: contains {counts.dtype} {counts.shape}, not one 2-D array: save depth as "
            "(height, width)"
        )
    check_size(path, counts.shape[1], counts.shape[0])
    return counts


def _read_pgm(path: Path) -> np.ndarray:
    """Return the counts of a binary PGM file.

    Pillow is not used, because it rescales the counts to the full range of the type.

    Raises:
        InputError: if the file cannot be read, or is not a binary PGM.
    """
    data = read_bytes(path)
    header = _PGM_HEADER.match(data)
    if header is None:
        raise InputError(f"{path}: not a binary PGM (P5); convert it to 16-bit PNG")
    width, height, largest = (int(field) for field in header.groups())
    check_size(path, width, height)
    kind = np.dtype(">u2" if largest > 255 else "u1")
    if len(data) - header.end() < width * height * kind.itemsize:
        raise damaged_file_error(path, ValueError("fewer samples than its header says"))
    counts = np.frombuffer(data, kind, count=width * height, offset=header.end())
    return counts.reshape(height, width).astype(kind.newbyteorder("="))


def _to_metres(path: Path, counts: np.ndarray, encoding: str) -> np.ndarray:
    """Return the depth in metres as float64; NaN where a count encodes no depth."""
    if encoding == "sunrgbd":
        counts = _require_16_bits(path, counts, encoding)
        return ((counts >> 3) | (counts << 13) & 0xFFFF) / 1000
    if encoding == "kinect-disparity":
        gap = 1092.5 - counts
        return np.where(gap > 0, 351.3 / gap, np.nan)
    return counts / counts_per_metre(encoding)


def counts_per_metre(encoding: str) -> float:
    """Return the number of counts per metre of the encoding ``mm``, ``cm``, ``m`` or ``m/N``.

    Raises:
        InputError: if the encoding is none of these.
    """
    if encoding in _UNITS:
        return _UNITS[encoding]
    with contextlib.suppress(ValueError):
        divisor = float(encoding.removeprefix("m/"))
        if encoding.startswith("m/") and 0 < divisor < float("inf"):
            return divisor
    raise InputError(
        f"unknown depth encoding {encoding!r}; use the unit of one count: mm, cm, m or m/N (for "
        "example m/256), or sunrgbd, or kinect-disparity"
    )


def _require_16_bits(path: Path, counts: np.ndarray, encoding: str) -> np.ndarray:
    """Return the counts as int32 after checking that they are integers from 0 to 65535.

    Raises:
        InputError: if a count is not such an integer.
    """
    if counts.dtype.kind not in "iu" or counts.min() < 0 or counts.max() > 65535:
        raise InputError(f"{path}: {encoding} needs 16-bit integers; give the unit of one count")
    return counts.astype(np.int32)


def _kinect_byte_order(path: Path, counts: np.ndarray) -> np.ndarray:
    """Return raw 11-bit Kinect values; their bytes are swapped if they exceed 11 bits as stored.

    The PGM files of NYU's raw data store the low byte first, against the PGM standard.

    Raises:
        InputError: if a value exceeds 11 bits in both byte orders.
    """
    counts = _require_16_bits(path, counts, "kinect-disparity")
    swapped = (counts >> 8) | (counts & 0xFF) << 8
    for candidate in (counts, swapped):
        if candidate.max() <= 2047:
            return candidate
    raise InputError(
        f"{path}: kinect-disparity has values from 0 to 2047, but this file has values up to "
        f"{counts.max()}; give the unit of one count"
    )
