"""Pictures and depth maps on disk: one reader for data sets and prediction, one writer."""

import contextlib
import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from diffsight.atomic import replacing
from diffsight.errors import InputError
from diffsight.ops.memory import memory_for

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
DEPTH_SUFFIXES = frozenset({".npy", ".pgm", ".png", ".tif", ".tiff"})
MIN_SIDE_PX = 16
MAX_ASPECT = 20
MAX_PIXELS = 2**27

_IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
_DEPTH_FORMATS = ("PNG", "TIFF")
_UNITS = {"m": 1.0, "cm": 100.0, "mm": 1000.0}
_PGM_GAP = rb"(?:\s|#[^\n]*\n)+"
_PGM_HEADER = re.compile(rb"P5" + (_PGM_GAP + rb"(\d{1,9})") * 3 + rb"\s")


def read_image(path: str | Path) -> UInt8[Tensor, "3 h w"]:
    """Return an image as upright 8-bit RGB, whatever is in the file.

    The EXIF orientation is applied; grayscale is repeated; palette and CMYK are converted;
    transparent pixels are blended over white; of 16-bit samples the high byte is kept (which undoes
    exactly a widening from 8 bit by 256 or by 257); of an animation the first frame is read.

    Args:
        path: JPEG, PNG, WebP, TIFF, BMP, GIF, PPM or PGM.

    Raises:
        InputError: if the file is missing, empty, damaged, no image, or of a size that no method
            can use (shorter side below 16 px, sides in a ratio above 20, more than 2**27 pixels).
    """
    path = Path(path)
    pixels = decode(path, _IMAGE_FORMATS, lambda image: upright_rgb(path, image))
    with memory_for(f"{path}: not enough memory to read it; scale it down"):
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


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
    known = np.isfinite(metres) & (counts != invalid)
    negative = known & (metres < 0)
    if negative.any():
        raise InputError(
            f"{path}: {negative.sum()} of {metres.size} pixels have a negative depth "
            f"(lowest {metres[known].min():g} m); if a value marks missing depth, name it as the "
            "invalid value"
        )
    valid = known & (metres > 0)
    if not valid.any():
        raise InputError(
            f"{path}: no pixel holds a depth (all {metres.size} are 0, {invalid:g} or not finite); "
            "check the invalid value, or leave this file out"
        )
    depth_m = np.where(valid, metres, 0).astype(np.float32)
    return torch.from_numpy(depth_m), torch.from_numpy(valid)


def check_encoding(encoding: str) -> None:
    """Accept the encodings of ``read_depth``.

    Raises:
        InputError: for any other string.
    """
    if encoding not in ("sunrgbd", "kinect-disparity"):
        _counts_per_metre(encoding)


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


def decode(
    path: Path, formats: tuple[str, ...], to_array: Callable[[Image.Image], np.ndarray]
) -> np.ndarray:
    """Open, check and decode one picture; every way in which that fails ends in one line.

    Raises:
        InputError: that line.
    """
    data = _read_bytes(path)
    try:
        # Pillow warns of large images, which are checked here, and of harmless odd metadata
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=formats) as image:
                _check_size(path, *image.size)
                image.load()
                return to_array(image)
    except InputError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(formats)
        raise InputError(
            f"{path}: not a picture of a known format ({known}), or damaged; convert it to PNG"
        ) from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: has more than {MAX_PIXELS:,} pixels; scale it down") from error
    except MemoryError:
        raise InputError(f"{path}: not enough memory to read it; scale it down") from None
    except Exception as error:  # decoders raise nearly anything on broken bytes
        raise _damaged(path, error) from error


def _read_bytes(path: Path) -> bytes:
    try:
        with memory_for(f"{path}: not enough memory to read it; give a smaller file"):
            data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be read ({reason}); check the path") from error
    if not data:
        raise InputError(f"{path}: the file is empty (0 bytes); copy or download it again")
    return data


def _damaged(path: Path, error: Exception) -> InputError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return InputError(f"{path}: damaged or cut off ({reason}); copy or download it again")


def _check_size(path: Path, width: int, height: int) -> None:
    short, long = sorted((width, height))
    if short < MIN_SIDE_PX:
        repair = f"the shorter side must have at least {MIN_SIDE_PX}; use a larger image"
    elif long > MAX_ASPECT * short:
        repair = f"the sides may differ by a factor of {MAX_ASPECT} at most; cut it into pieces"
    elif width * height > MAX_PIXELS:
        repair = f"more than {MAX_PIXELS:,} in all; scale it down"
    else:
        return
    raise InputError(f"{path}: {width} x {height} pixels: {repair}")


def upright_rgb(path: str | Path, image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pixels of an opened image as ``read_image`` does; ``path`` is for messages.

    Raises:
        InputError: if it holds samples of more than 16 bit.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise InputError(f"{path}: holds floating-point samples; convert it to 8 or 16 bit")
    if image.mode.startswith("I"):
        samples = np.asarray(image).astype(np.int64)
        if samples.min() < 0 or samples.max() > 65535:
            raise InputError(f"{path}: holds 32-bit samples; convert it to 8 or 16 bit")
        return np.repeat((samples >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


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
    _check_size(path, counts.shape[1], counts.shape[0])
    return counts


def read_array(path: Path, kinds: str = "fiu") -> np.ndarray:
    """Return the one array of numbers in an NPY file, of NumPy's kinds of types.

    Raises:
        InputError: if it cannot be read or holds something else.
    """
    data = _read_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # as for pictures
        raise _damaged(path, error) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise InputError(
            f"{path}: holds {found}, not one array of numbers: save such a one with numpy.save"
        )
    return array


def _read_pgm(path: Path) -> np.ndarray:
    """Return the counts of a binary PGM; Pillow would stretch them to the type's range."""
    data = _read_bytes(path)
    header = _PGM_HEADER.match(data)
    if header is None:
        raise InputError(f"{path}: not a binary PGM (P5); convert it to 16-bit PNG")
    width, height, largest = (int(field) for field in header.groups())
    _check_size(path, width, height)
    kind = np.dtype(">u2" if largest > 255 else "u1")
    if len(data) - header.end() < width * height * kind.itemsize:
        raise _damaged(path, ValueError("fewer samples than its header says"))
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
    return counts / _counts_per_metre(encoding)


def _counts_per_metre(encoding: str) -> float:
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
