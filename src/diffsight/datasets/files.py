"""Files on disk, each read in one way: bytes, texts, arrays, pictures, and lists of a folder."""

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
from diffsight.ops.memory import memory_for

_READS_HEIF = importlib.util.find_spec("pillow_heif") is not None
_HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
) | (_HEIF_SUFFIXES if _READS_HEIF else frozenset())
_OTHERS = ("arw", "avif", "cr2", "cr3", "dng", "jp2", "jxl", "nef", "orf", "psd", "raf", "rw2")
UNREADABLE: Mapping[str, str] = {
    **({} if _READS_HEIF else dict.fromkeys(_HEIF_SUFFIXES, "install pillow-heif")),
    **{f".{name}": "convert it to JPEG or PNG" for name in _OTHERS},
}
"""Suffixes of photographs that are not read, and the repair."""
MAX_ASPECT = 20
MAX_PIXELS = 2**27
LARGE_BYTES = 2**30  # of memory, from which on a picture is announced

_IMAGE_FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF"),
    *(("HEIF",) if _READS_HEIF else ()),
)
_BYTES_PER_PIXEL = 10  # while a picture is read: the file's pixels, and two copies in RGB
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_START = b"\x89PNG\r\n\x1a\n"
# UTF-32 comes first: its mark begins with that of UTF-16
log = logging.getLogger(__name__)


def read_image(path: str | Path, data: bytes | None = None) -> UInt8[Tensor, "3 h w"]:
    """Return an image as upright 8-bit RGB, whatever is in the file.

    The EXIF orientation is applied; grayscale is repeated; palette and CMYK are converted;
    transparent pixels are blended over white; of 16-bit samples the high byte is kept (which undoes
    exactly a widening from 8 bit by 256 or by 257); of an animation the first frame is read.

    Args:
        path: JPEG, PNG, WebP, TIFF, BMP, GIF, PPM or PGM.
        data: contents of the file, if they are known; the path is for messages then.

    Raises:
        InputError: if the file is missing, empty, damaged, no image, or of a size that no method
            can use (shorter side below 16 px, sides in a ratio above 20, more than 2**27 pixels).
    """
    path = Path(path)
    pixels = decode(path, _IMAGE_FORMATS, lambda image: _rgb(path, image), data)
    with memory_for(f"{path}: not enough memory to read it; scale it down"):
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read_sized_image(path: Path, hw: tuple[int, int], by: str) -> UInt8[Tensor, "3 h w"]:
    """Return an image of COCO.

    Args:
        path: file.
        hw: height and width that its labels are made for.
        by: name of the file with the labels.

    Raises:
        InputError: if it cannot be used, or has another size.
    """
    image = read_image(path)
    if image.shape[-2:] != hw:
        raise InputError(
            f"{path}: {image.shape[2]} x {image.shape[1]} pixels, {by} says {hw[1]} x {hw[0]}: "
            "take COCO's own file"
        )
    return image


def list_files(folder: Path) -> list[Path]:
    """Return the files below a folder in the order of their names.

    Links to folders are followed, but not to one that they lie in. Hidden files are left out.

    Raises:
        InputError: if a folder cannot be read.
    """
    files: list[Path] = []

    def search(folder: str, above: frozenset[tuple[int, int]]) -> None:
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    search(entry.path, above | {identity})
                elif entry.is_file():
                    files.append(Path(entry.path))

    try:
        search(str(folder), frozenset())
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{error.filename or folder}: cannot be read ({reason}); check the path"
        ) from error
    return sorted(files)


def read_text(path: Path, what: str = "text") -> str:
    """Return the contents of a text file in UTF-8, UTF-16 or UTF-32; a byte-order mark is removed.

    Args:
        path: the file.
        what: what it should be, for messages.

    Raises:
        InputError: if it cannot be read, or is in another encoding.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be read as {what} ({reason}); check the path") from error
    with reading(path, f"cannot be read as {what} ({{reason}}); save it in UTF-8"):
        return decode_text(data)


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file.

    Raises:
        InputError: if it cannot be read.
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
    """Open, check, turn upright and decode one picture; every failure ends in one line.

    Args:
        path: of its file.
        formats: of Pillow that it may have.
        to_array: called with the upright picture.
        data: contents of the file, if they are known; the path is for messages then.

    Raises:
        InputError: that line.
    """
    is_heif = data is not None or path.suffix.lower() in _HEIF_SUFFIXES  # bytes have no suffix
    data = read_bytes(path) if data is None else data
    if _READS_HEIF and is_heif:
        import pillow_heif  # pyright: ignore[reportMissingImports]

        pillow_heif.register_heif_opener()
    try:
        # Pillow warns of large images, which are checked here, and of harmless odd metadata
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=formats) as image:
                check_size(path, *image.size)
                _announce_large(path, *image.size)
                _check_png(path, data)
                image.load()
                return to_array(upright(image))
    except InputError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(formats)
        repair = UNREADABLE.get(path.suffix.lower(), "convert it to PNG")
        raise InputError(
            f"{path}: not a picture of a known format ({known}), or damaged; {repair}"
        ) from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: has more than {MAX_PIXELS:,} pixels; scale it down") from error
    except MemoryError:
        raise InputError(f"{path}: not enough memory to read it; scale it down") from None
    except Exception as error:  # decoders raise nearly anything on broken bytes
        raise damaged(path, error) from error


def upright(image: Image.Image) -> Image.Image:
    """Return an opened image as its EXIF orientation says; a damaged note is ignored."""
    try:
        method = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # as decoders do
        return image
    if method is None:
        return image
    turned = image.transpose(method)
    turned.format = image.format
    return turned


def _announce_large(path: Path, width: int, height: int) -> None:
    count = width * height
    if count * _BYTES_PER_PIXEL > LARGE_BYTES:
        log.warning(
            "%s: %.0f megapixels: reading it takes about %.1f GB of memory",
            *(path, count / 1e6, count * _BYTES_PER_PIXEL / 1e9),
        )


def _check_png(path: Path, data: bytes) -> None:
    """Refuse a PNG whose pixels or palette do not have their checksum; Pillow does not look."""
    if not data.startswith(_PNG_START):
        return
    view, start = memoryview(data), len(_PNG_START)
    while start + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 8 + length
        if end + 4 > len(data):
            return  # cut off, which decoding finds
        (checksum,) = struct.unpack_from(">I", data, end)
        if kind in (b"IDAT", b"PLTE", b"tRNS") and zlib.crc32(view[start + 4 : end]) != checksum:
            what = "pixels" if kind == b"IDAT" else "palette"
            raise InputError(
                f"{path}: damaged (the checksum of the {what} is wrong): copy it again"
            )
        start = end + 4


def read_bytes(path: Path) -> bytes:
    """Return the contents of a file that is not empty.

    Raises:
        InputError: if it cannot be read, or is empty.
    """
    try:
        with memory_for(f"{path}: not enough memory to read it; give a smaller file"):
            data = path.read_bytes()
    except (OSError, ValueError) as error:  # a name with a null byte is no OSError
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason}); check the path") from error
    if not data:
        raise InputError(f"{path}: the file is empty (0 bytes); copy or download it again")
    return data


def damaged(path: Path, error: Exception) -> InputError:
    """Return the error of a file that a decoder cannot read."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return InputError(f"{path}: damaged or cut off ({reason}); copy or download it again")


def check_size(path: Path, width: int, height: int) -> None:
    """Refuse sizes that no method can use.

    Raises:
        InputError: with the repair.
    """
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
    return _rgb(path, upright(image))


def _rgb(path: str | Path, image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
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
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def read_array(path: Path, kinds: str = "fiu") -> np.ndarray:
    """Return the one array of numbers in an NPY file, of NumPy's kinds of types.

    Raises:
        InputError: if it cannot be read or holds something else.
    """
    data = read_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # as for pictures
        raise damaged(path, error) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise InputError(
            f"{path}: holds {found}, not one array of numbers: save such a one with numpy.save"
        )
    return array
