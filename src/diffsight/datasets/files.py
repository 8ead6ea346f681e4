"""Read files: bytes, text, JSON, NumPy arrays and images; list the files of a folder."""

import importlib.util
import io
import logging
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from diffsight.errors import InputError
from diffsight.formats.sizes import MIN_SIDE_PX
from diffsight.formats.text import decode_text, parse_json, reading
from diffsight.ops.memory import report_out_of_memory

_READS_HEIF = importlib.util.find_spec("pillow_heif") is not None
_HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
) | (_HEIF_SUFFIXES if _READS_HEIF else frozenset())
_OTHER_SUFFIXES = (
    "arw",
    "avif",
    "cr2",
    "cr3",
    "dng",
    "jp2",
    "jxl",
    "nef",
    "orf",
    "psd",
    "raf",
    "rw2",
)
UNSUPPORTED_SUFFIXES: Mapping[str, str] = {
    **({} if _READS_HEIF else dict.fromkeys(_HEIF_SUFFIXES, "install pillow-heif")),
    **{f".{name}": "convert it to JPEG or PNG" for name in _OTHER_SUFFIXES},
}
"""Suffixes of image formats that cannot be read, with the remedy for each."""
MAX_ASPECT = 20  # ratio of the longer to the shorter side
MAX_PIXELS = 2**27
LARGE_BYTES = 2**30  # memory for reading an image above which a warning is logged

_IMAGE_FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF"),
    *(("HEIF",) if _READS_HEIF else ()),
)
_BYTES_PER_PIXEL = 10  # memory while an image is read: the file's pixels, and two copies in RGB
_ORIENTATION = 0x0112  # tag of EXIF
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_START = b"\x89PNG\r\n\x1a\n"
log = logging.getLogger(__name__)


def read_image(path: str | Path, data: bytes | None = None) -> UInt8[Tensor, "3 h w"]:
    """Return an image as upright 8-bit RGB.

    The EXIF orientation is applied. Grayscale is repeated over the channels; palettes and CMYK are
    converted. Transparent pixels are blended with white. 16-bit values are reduced to their high
    byte, which restores 8-bit values that were multiplied by 256 or 257. Only the first frame of an
    animation is read.

    Args:
        path: JPEG, PNG, WebP, TIFF, BMP, GIF, PPM or PGM file; also HEIF if pillow-heif is
            installed.
        data: contents of the file if they are in memory; ``path`` then only appears in messages.

    Raises:
        InputError: if the file is missing, empty, damaged or not an image, or if its size is not
            supported (shorter side below 16 px, ratio of the sides above 20, or more than 2**27
            pixels).
    """
    path = Path(path)
    pixels = decode(path, _IMAGE_FORMATS, lambda image: _to_rgb(path, image), data)
    with report_out_of_memory(f"{path}: not enough memory to read it; scale it down"):
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read_sized_image(path: Path, hw: tuple[int, int], annotations: str) -> UInt8[Tensor, "3 h w"]:
    """Return a COCO image after checking that it has the size stated in its annotation file.

    Args:
        path: path of the image.
        hw: height and width according to the annotation file.
        annotations: name of the annotation file, for messages.

    Raises:
        InputError: if the image cannot be read, or has another size.
    """
    image = read_image(path)
    if image.shape[-2:] != hw:
        raise InputError(
            f"{path}: {image.shape[2]} x {image.shape[1]} pixels, but {annotations} says {hw[1]} x "
            f"{hw[0]}: use the original file of COCO"
        )
    return image


def is_file_or_broken_link(path: Path) -> bool:
    """Return whether a path is a file, or a link to a missing file, so that reading it fails."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def list_files(folder: Path) -> list[Path]:
    """Return all files in a folder and its subfolders, sorted by path.

    Hidden files and folders are skipped. Symbolic links to folders are followed, except links to a
    folder that contains the link. Links to a missing file are listed, so that reading them fails.

    Raises:
        InputError: if a folder cannot be read.
    """
    files: list[Path] = []

    def search(folder: str, parents: frozenset[tuple[int, int]]) -> None:
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in parents:
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    search(entry.path, parents | {identity})
                elif is_file_or_broken_link(Path(entry.path)):
                    files.append(Path(entry.path))

    try:
        search(str(folder), frozenset())
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{error.filename or folder}: cannot be read ({reason}); check the path"
        ) from error
    return sorted(files)


def read_text(path: Path, content: str = "text") -> str:
    """Return the contents of a text file in UTF-8, UTF-16 or UTF-32, without byte-order mark.

    Args:
        path: path of the file.
        content: expected kind of content, for messages, such as ``"a list"``.

    Raises:
        InputError: if the file cannot be read, or has another encoding.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{path}: cannot be read as {content} ({reason}); check the path"
        ) from error
    with reading(path, f"cannot be read as {content} ({{reason}}); save it in UTF-8"):
        return decode_text(data)


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file.

    Raises:
        InputError: if the file cannot be read, or is not JSON.
    """
    text = read_text(path, "JSON")
    with reading(path, "cannot be read as JSON ({reason}); save it again"):
        return parse_json(text)


def decode(
    path: Path,
    formats: tuple[str, ...],
    to_array: Callable[[Image.Image], np.ndarray],
    data: bytes | None = None,
) -> np.ndarray:
    """Return the pixels of an image file as an array.

    The image is opened, checked, turned upright and passed to ``to_array``.

    Args:
        path: path of the file.
        formats: names of the accepted formats in Pillow, such as ``"PNG"``.
        to_array: function that returns the array for the upright image.
        data: contents of the file if they are in memory; ``path`` then only appears in messages.

    Raises:
        InputError: if the file cannot be read or decoded, or its size is not supported.
    """
    # the path of data in memory may have no suffix
    is_heif = data is not None or path.suffix.lower() in _HEIF_SUFFIXES
    data = read_bytes(path) if data is None else data
    if _READS_HEIF and is_heif:
        import pillow_heif  # pyright: ignore[reportMissingImports]

        pillow_heif.register_heif_opener()
    try:
        # Pillow warns about large images, which are checked here, and about harmless metadata
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=formats) as image:
                check_size(path, *image.size)
                _warn_if_large(path, *image.size)
                _check_png(path, data)
                image.load()
                return to_array(upright(image))
    except InputError:
        raise
    except UnidentifiedImageError as error:
        supported = ", ".join(formats)
        remedy = UNSUPPORTED_SUFFIXES.get(path.suffix.lower(), "convert it to PNG")
        raise InputError(
            f"{path}: not an image in a supported format ({supported}), or damaged; {remedy}"
        ) from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: has more than {MAX_PIXELS:,} pixels; scale it down") from error
    except MemoryError:
        raise InputError(f"{path}: not enough memory to read it; scale it down") from None
    except Exception as error:  # decoders raise errors of many types for damaged files
        raise damaged_file_error(path, error) from error


def upright(image: Image.Image) -> Image.Image:
    """Return an opened image with its EXIF orientation applied; damaged EXIF data are ignored."""
    try:
        method = _TO_UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF data raise errors of many types
        return image
    if method is None:
        return image
    turned = image.transpose(method)
    turned.format = image.format
    return turned


def _warn_if_large(path: Path, width: int, height: int) -> None:
    """Log a warning if reading an image of this size takes much memory."""
    count = width * height
    if count * _BYTES_PER_PIXEL > LARGE_BYTES:
        log.warning(
            "%s: %.0f megapixels: reading it takes about %.1f GB of memory",
            *(path, count / 1e6, count * _BYTES_PER_PIXEL / 1e9),
        )


def _check_png(path: Path, data: bytes) -> None:
    """Raise an error for a PNG file with a wrong checksum, which Pillow does not verify.

    Raises:
        InputError: if the checksum of the pixels or of the palette is wrong.
    """
    if not data.startswith(_PNG_START):
        return
    view, start = memoryview(data), len(_PNG_START)
    while start + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 8 + length
        if end + 4 > len(data):
            return  # the file is cut off, so that decoding it raises an error
        (checksum,) = struct.unpack_from(">I", data, end)
        if kind in (b"IDAT", b"PLTE", b"tRNS") and zlib.crc32(view[start + 4 : end]) != checksum:
            part = "pixels" if kind == b"IDAT" else "palette"
            raise InputError(
                f"{path}: damaged (the checksum of the {part} is wrong): copy it again"
            )
        start = end + 4


def read_bytes(path: Path) -> bytes:
    """Return the contents of a non-empty file.

    Raises:
        InputError: if the file cannot be read, or is empty.
    """
    try:
        with report_out_of_memory(f"{path}: not enough memory to read it; give a smaller file"):
            data = path.read_bytes()
    except (OSError, ValueError) as error:  # a null byte in the path raises ValueError
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason}); check the path") from error
    if not data:
        raise InputError(f"{path}: the file is empty (0 bytes); copy or download it again")
    return data


def damaged_file_error(path: Path, error: Exception) -> InputError:
    """Return the error to raise for a file that a decoder cannot read."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return InputError(f"{path}: damaged or cut off ({reason}); copy or download it again")


def check_size(path: Path, width: int, height: int) -> None:
    """Raise an error for an image size that is not supported.

    Args:
        path: path of the image, for messages.
        width: width in pixels.
        height: height in pixels.

    Raises:
        InputError: if the shorter side is below 16 px, the sides differ by a factor above 20, or
            there are more than 2**27 pixels.
    """
    short, long = sorted((width, height))
    if short < MIN_SIDE_PX:
        remedy = f"the shorter side must have at least {MIN_SIDE_PX}; use a larger image"
    elif long > MAX_ASPECT * short:
        remedy = f"the sides may differ by a factor of {MAX_ASPECT} at most; cut it into pieces"
    elif width * height > MAX_PIXELS:
        remedy = f"more than {MAX_PIXELS:,} in total; scale it down"
    else:
        return
    raise InputError(f"{path}: {width} x {height} pixels: {remedy}")


def upright_rgb(path: str | Path, image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pixels of an opened image, converted as ``read_image`` does.

    Args:
        path: path of the image, for messages.
        image: opened image.

    Raises:
        InputError: if its values are floating-point, or have more than 16 bits.
    """
    return _to_rgb(path, upright(image))


def _to_rgb(path: str | Path, image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pixels of an upright image as 8-bit RGB.

    Raises:
        InputError: if its values are floating-point, or have more than 16 bits.
    """
    if image.mode == "F":
        raise InputError(f"{path}: contains floating-point values; convert it to 8 or 16 bit")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"{path}: contains 32-bit values; convert it to 8 or 16 bit")
        return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def read_array(path: Path, kinds: str = "fiu") -> np.ndarray:
    """Return the array in an NPY file.

    Args:
        path: path of the file.
        kinds: accepted kinds of the dtype, as letters of ``numpy.dtype.kind``.

    Raises:
        InputError: if the file cannot be read, or does not contain one array of these kinds.
    """
    data = read_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # damaged files raise errors of many types
        raise damaged_file_error(path, error) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds:
        content = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise InputError(
            f"{path}: contains {content}, not one array of numbers: save one with numpy.save"
        )
    return array
