"""Depth maps on disk: one reader for data sets and labels, one writer."""

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
    damaged,
    decode,
    read_array,
    read_bytes,
)
from diffsight.errors import InputError

DEPTH_SUFFIXES = frozenset({".npy", ".pgm", ".png", ".tif", ".tiff"})

_DEPTH_FORMATS = ("PNG", "TIFF")
_UNITS = {"m": 1.0, "cm": 100.0, "mm": 1000.0}
_PGM_GAP = rb"(?:\s|#[^\n]*\n)+"
_PGM_HEADER = re.compile(rb"P5" + (_PGM_GAP + rb"(\d{1,9})") * 3 + rb"\s")


def read_depth(
    path: str | Path, encoding: str = "mm", invalid: int | float = 0
) -> tuple[Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """Return a depth map in metres, and where it holds a measurement.

    Args:
        path: 8- or 16-bit PNG or PGM, TIFF with one channel, or a 2-D NPY array of numbers.
        encoding: what one count is: ``mm``, ``cm``, ``m`` or ``m/N`` (KITTI ``m/256``, TUM
            ``m/5000``); or ``sunrgbd`` (16-bit word rotated by 3 bits, mm), or ``kinect-disparity``
            (11-bit raw values of the first Kinect, ``351.3 / (1092.5 - v)`` metres).
        invalid: the count that stands for "no measurement". Zero, NaN and infinity always do.

    Returns:
        Metres (0 where not valid) and validity.

    Raises:
        InputError: if the file cannot be read, holds colours, a negative depth or no depth at all,
            or if the encoding is unknown or does not fit.
    """
    path = Path(path)
    check_encoding(encoding)
    counts = read_counts(path)
    if encoding == "kinect-disparity":
        counts = _kinect_byte_order(path, counts)
    metres = _to_metres(path, counts, encoding)
    with np.errstate(over="ignore"):
        depth_m = metres.astype(np.float32)  # which has no number for 1e300 metres
    known = np.isfinite(depth_m) & (counts != invalid)
    negative = known & (metres < 0)
    if negative.any():
        raise InputError(
            f"{path}: {negative.sum()} of {metres.size} pixels have a negative depth "
            f"(lowest {metres[known].min():g} m); if a value marks missing depth, name it as the "
            "invalid value"
        )
    valid = known & (depth_m > 0)
    if not valid.any():
        raise InputError(
            f"{path}: no pixel holds a depth (all {metres.size} are 0, {invalid:g} or not finite); "
            "check the invalid value, or leave this file out"
        )
    return torch.from_numpy(np.where(valid, depth_m, np.float32(0))), torch.from_numpy(valid)


def check_encoding(encoding: str) -> None:
    """Accept the encodings of ``read_depth``.

    Raises:
        InputError: for any other string.
    """
    if encoding not in ("sunrgbd", "kinect-disparity"):
        counts_per_metre(encoding)


def write_depth_png(
    path: str | Path, depth_m: Float[Tensor, "h w"], valid: Bool[Tensor, "h w"]
) -> None:
    """Write a 16-bit PNG of millimetres; 0 stands for no depth, also for more than 65.535 m.

    Text chunks of the file repeat unit and marker. ``read_depth(path, "mm")`` is the inverse.

    Raises:
        InputError: if the file cannot be written; nothing half-written stays behind.
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
    """Return the numbers of a depth file as they are stored, two-dimensional.

    Raises:
        InputError: if there are none.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _read_npy(path)
    if suffix == ".pgm":
        return _read_pgm(path)
    return decode(path, _DEPTH_FORMATS, lambda image: _one_channel(path, image))


def _one_channel(path: Path, image: Image.Image) -> np.ndarray:
    if image.mode not in ("L", "F") and not image.mode.startswith("I"):
        raise InputError(
            f"{path}: a picture with colours (mode {image.mode}), not a depth map; give the "
            "file with one channel of counts (16-bit PNG or NPY)"
        )
    return np.array(image)


def _read_npy(path: Path) -> np.ndarray:
    counts = read_array(path)
    if counts.ndim == 3 and 1 in (counts.shape[0], counts.shape[2]):  # one channel, said as one
        counts = counts[0] if counts.shape[0] == 1 else counts[..., 0]
    if counts.ndim != 2:
        raise InputError(
            f"{path}: holds {counts.dtype} {counts.shape}, not one 2-D array: save depth as "
            "(height, width)"
        )
    check_size(path, counts.shape[1], counts.shape[0])
    return counts


def _read_pgm(path: Path) -> np.ndarray:
    """Return the counts of a binary PGM; Pillow would stretch them to the type's range."""
    data = read_bytes(path)
    header = _PGM_HEADER.match(data)
    if header is None:
        raise InputError(f"{path}: not a binary PGM (P5); convert it to 16-bit PNG")
    width, height, largest = (int(field) for field in header.groups())
    check_size(path, width, height)
    kind = np.dtype(">u2" if largest > 255 else "u1")
    if len(data) - header.end() < width * height * kind.itemsize:
        raise damaged(path, ValueError("fewer samples than its header says"))
    counts = np.frombuffer(data, kind, count=width * height, offset=header.end())
    return counts.reshape(height, width).astype(kind.newbyteorder("="))


def _to_metres(path: Path, counts: np.ndarray, encoding: str) -> np.ndarray:
    """Return metres in double precision; NaN where a count stands for no distance."""
    if encoding == "sunrgbd":
        counts = _sixteen_bits(path, counts, encoding)
        return ((counts >> 3) | (counts << 13) & 0xFFFF) / 1000
    if encoding == "kinect-disparity":
        gap = 1092.5 - counts
        return np.where(gap > 0, 351.3 / gap, np.nan)
    return counts / counts_per_metre(encoding)


def counts_per_metre(encoding: str) -> float:
    """Return how many counts are one metre in ``mm``, ``cm``, ``m`` or ``m/N``.

    Raises:
        InputError: for any other string.
    """
    if encoding in _UNITS:
        return _UNITS[encoding]
    with contextlib.suppress(ValueError):
        divisor = float(encoding.removeprefix("m/"))
        if encoding.startswith("m/") and 0 < divisor < float("inf"):
            return divisor
    raise InputError(
        f"unknown depth encoding {encoding!r}; use the unit of one count: mm, cm, m or m/N (such "
        "as m/256, m/5000), or sunrgbd, or kinect-disparity"
    )


def _sixteen_bits(path: Path, counts: np.ndarray, encoding: str) -> np.ndarray:
    if counts.dtype.kind not in "iu" or counts.min() < 0 or counts.max() > 65535:
        raise InputError(f"{path}: {encoding} needs 16-bit integers; give the unit of one count")
    return counts.astype(np.int32)


def _kinect_byte_order(path: Path, counts: np.ndarray) -> np.ndarray:
    """Return raw Kinect values (11 bits); NYU's dumps store them low byte first in a PGM."""
    counts = _sixteen_bits(path, counts, "kinect-disparity")
    swapped = (counts >> 8) | (counts & 0xFF) << 8
    for candidate in (counts, swapped):
        if candidate.max() <= 2047:
            return candidate
    raise InputError(
        f"{path}: kinect-disparity has values from 0 to 2047, this file up to {counts.max()}; give "
        "the unit of one count"
    )
