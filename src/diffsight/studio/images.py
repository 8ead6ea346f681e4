"""The photographs of a folder: their names, their sizes, and pictures of them at any size."""

import contextlib
import io
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from diffsight.datasets.files import (
    IMAGE_SUFFIXES,
    check_size,
    damaged_file_error,
    list_files,
    read_image,
    upright_rgb,
)
from diffsight.datasets.pairs import content_hash, name_of
from diffsight.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
SUFFIXES = IMAGE_SUFFIXES - {".heic", ".heif", ".hif"}  # which browsers and draft decoding lack
MAX_WHOLE_PIXELS = 4_000_000  # larger images are made smaller while they are decoded
JPEG_QUALITY = 88
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_ORIENTATION = 0x0112
_DECODERS = threading.Semaphore(2)  # images that are decoded at once, which limits the memory


@dataclass
class Photograph:
    """An image file of the folder.

    Attributes:
        id: number of the image, which stays the same for its name.
        name: path below the folder, with ``/``.
        path: path of the file.
    """

    id: int
    name: str
    path: Path

    def __post_init__(self) -> None:
        """Begin without size and hash, which are read when they are needed."""
        self._lock = threading.Lock()
        self._size: tuple[tuple[int, int], tuple[int, int]] | None = None
        self._hash: tuple[tuple[int, int], str] | None = None
        self._picture: tuple[tuple[int, int, int], bytes] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, upright by EXIF. Only the head of the file is read.

        It is read again if the file has changed. A file that was deleted keeps its last size, so
        that its labels can still be drawn.

        Raises:
            InputError: if the file cannot be used.
        """
        try:
            version = self._version()
        except InputError:
            if self._size is None:
                raise
            return self._size[1]
        with self._lock:
            if self._size is None or self._size[0] != version:
                self._size = version, _read_size(self.path)
            return self._size[1]

    @property
    def content(self) -> str:
        """SHA-256 of the file, which is read again if it has changed.

        Raises:
            InputError: if the file cannot be read.
        """
        version = self._version()
        with self._lock:
            if self._hash is None or self._hash[0] != version:
                self._hash = version, content_hash(self.path)
            return self._hash[1]

    def read(self, short_side: int) -> UInt8[Tensor, "3 h w"]:
        """Return the image as upright RGB, for a model that works at this size.

        A large image is made smaller while it is decoded, to at least twice this size.

        Args:
            short_side: shorter side in pixels at which the model works.

        Raises:
            InputError: if the file cannot be used.
        """
        width, height = self.size
        if width * height <= MAX_WHOLE_PIXELS:
            return read_image(self.path)
        pixels = _decode(self.path, 2 * short_side / min(width, height))
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()

    def picture(self, side: int) -> bytes:
        """Return a JPEG file whose longer side has at most ``side`` pixels.

        Raises:
            InputError: if the file cannot be used.
        """
        key = side, *self._version()
        if self._picture is not None and self._picture[0] == key:
            return self._picture[1]
        size = fit(self.size, side)
        shown = Image.fromarray(_decode(self.path, max(size) / max(self.size)))
        if shown.size != size:
            shown = shown.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        stream = io.BytesIO()
        shown.save(stream, format="JPEG", quality=JPEG_QUALITY)
        if self.size[0] * self.size[1] > MAX_WHOLE_PIXELS:  # it takes long to make
            self._picture = key, stream.getvalue()
        return stream.getvalue()

    def _version(self) -> tuple[int, int]:
        """Return the time of the last change of the file, and its length."""
        try:
            status = self.path.stat()
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from None
        return status.st_mtime_ns, status.st_size


def fit(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return a size with the same aspect ratio, whose longer side has at most ``side`` pixels."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def list_photographs(folder: Path, work: Path | None = None) -> list[str]:
    """Return the names of the image files below a folder, sorted.

    Args:
        folder: folder of the photographs.
        work: folder whose files are no photographs.

    Raises:
        InputError: if the folder cannot be read, has no image, or lies in ``work``, or if the
            labels of two images would have the same name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: give the folder of your photographs")
    skipped = None if work is None else work.resolve()
    if skipped in (folder.resolve(), *folder.resolve().parents):
        raise InputError(
            f"{work}: contains the photographs: give another --work DIR, or leave it out"
        )
    names = [
        file.relative_to(folder).as_posix()
        for file in list_files(folder)
        if file.suffix.lower() in SUFFIXES and skipped not in file.resolve().parents
    ]
    if not names:
        suffixes = " ".join(sorted(SUFFIXES))
        raise InputError(f"{folder}: no images ({suffixes}): give the folder of your photographs")
    first: dict[str, str] = {}
    for name in names:
        if (other := first.setdefault(name_of(Path(name)), name)) != name:
            raise InputError(
                f"{folder}: the labels of {other} and {name} would have the same name: rename one "
                "before you label it (labels belong to the name of a photograph)"
            )
    return names


def encode_png(pixels: np.ndarray) -> bytes:
    """Return a PNG file of an array ``h w`` or ``h w c`` of 8 bits, compressed for speed."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=1)
    return stream.getvalue()


def _read_size(path: Path) -> tuple[int, int]:
    """Return width and height of an upright image.

    Raises:
        InputError: if the file is no image, or its size is not supported.
    """
    with _errors(path), path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
        # a TIFF has its upright size in newer versions of Pillow, but these tags are never turned
        stored = image.tag_v2 if isinstance(image, TiffImageFile) else None
        width, height = (stored[256], stored[257]) if stored else image.size
        check_size(path, width, height)
        # Pillow decodes a whole PNG to look for EXIF data behind the pixels
        if image.format == "PNG" and "exif" not in image.info and not _ends_with_texts(path):
            return width, height
        return (height, width) if _is_turned(image) else (width, height)


def _is_turned(image: Image.Image) -> bool:
    """Return whether EXIF exchanges width and height; ``read_image`` too ignores damaged EXIF."""
    try:
        return image.getexif().get(_ORIENTATION) in _TURNED
    except Exception:  # damaged EXIF data raise errors of many types
        return False


def _ends_with_texts(path: Path) -> bool:
    """Return whether a PNG file has EXIF data or texts behind its pixels."""
    has_pixels = False
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            has_pixels = has_pixels or kind == b"IDAT"
            if has_pixels and kind in (b"eXIf", b"tEXt", b"iTXt", b"zTXt"):
                return True
            file.seek(length + 4, io.SEEK_CUR)
    return False


def _decode(path: Path, scale: float) -> UInt8[np.ndarray, "h w 3"]:
    """Return an upright image as RGB, made smaller while it is decoded if that is possible.

    Args:
        path: path of the file.
        scale: smallest size of the result, as a fraction of the image.

    Raises:
        InputError: if the file cannot be used.
    """
    with _DECODERS, _errors(path), Image.open(path, formats=FORMATS) as image:
        check_size(path, *image.size)
        is_drafted = scale < 1 and image.draft("RGB", _scaled(image.size, scale)) is not None
        image.load()
        pixels = upright_rgb(path, image)
    if is_drafted or scale > 0.5:
        return pixels
    return np.array(Image.fromarray(pixels).reduce(int(1 / scale)))


def _scaled(size: Iterable[int], scale: float) -> tuple[int, int]:
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Turn the errors of a decoder into an ``InputError`` of one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # decoders raise errors of many types for damaged files
        raise damaged_file_error(path, error) from None
