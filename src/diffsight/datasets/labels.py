"""Labels of any dense task on disk: what counts, colours or numbers in a file mean."""

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from diffsight.choices import LabelKind
from diffsight.datasets.depth import DEPTH_SUFFIXES, read_counts, read_depth
from diffsight.datasets.files import decode, read_array, read_bytes
from diffsight.errors import InputError
from diffsight.types import Boxes

KINDS: tuple[LabelKind, ...] = get_args(LabelKind)
LABEL_SUFFIXES = DEPTH_SUFFIXES | {".bmp", ".gif", ".ppm", ".webp"}
LOSSY_SUFFIXES = frozenset({".jpeg", ".jpg"})
NO_CLASS = 255  # the marker of most data sets of classes
MOST_COLOURS = 256
_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "PPM", "WEBP", "JPEG")
HIGHEST_ID = 65535  # that a file of one channel can hold
# 127.5 / 127.5 is no vector: below half of the full length a pixel has no direction
SHORTEST_NORMAL = 0.5
# black and white, with which some files fill holes, have the length 1.7
LONGEST_ENCODED_NORMAL = 1.5

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class LabelFormat:
    """How label files are read.

    Attributes:
        kind: ``segmentation`` (class ids: one channel, palette, or a colour per class), ``depth``
            (metric), ``scalar``, ``normals`` (RGB as (v - 127.5) / 127.5, or numbers; x right, y
            down, z forward), or ``vector`` (RGB as v / 255, or numbers).
        unit: of one stored count. Depth: as ``read_depth`` takes it; default mm, or metres where
            the numbers are floating point or those of points. Scalar: a name, with ``/N`` where N
            counts are one (``K/100``, ``1/65535``).
        invalid: the count that stands for "no label", in a file of several channels the one that
            all of them have; for ids of classes (not for colours) 255 by default. NaN always does;
            for depth 0 too.
        snap: class masks may be smoothed or compressed: any number of values is read, and JPEG.
    """

    kind: str
    unit: str | None = None
    invalid: int | float | None = None
    snap: bool = False

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        if self.kind not in KINDS:
            raise InputError(f"unknown kind {self.kind!r}: choose {', '.join(KINDS)}")
        if self.unit is not None and self.kind not in ("depth", "scalar"):
            raise InputError(f"labels of kind {self.kind} have no unit: leave --unit out")
        if self.kind == "scalar":
            _ = self.scale
        if self.snap and self.kind != "segmentation":
            raise InputError(f"labels of kind {self.kind} are no classes: leave --snap out")

    @property
    def scale(self) -> float:
        """Counts per unit of a scalar."""
        _, slash, divisor = (self.unit or "").partition("/")
        with contextlib.suppress(ValueError):
            if not slash or 0 < float(divisor) < float("inf"):
                return float(divisor) if slash else 1.0
        raise InputError(
            f"unit {self.unit!r}: give a name, or NAME/N for N counts per unit (K/100)"
        )

    @property
    def value_unit(self) -> str:
        """Of the values that a task predicts."""
        if self.kind == "depth":
            return "m"
        return "" if self.kind != "scalar" else (self.unit or "counts").partition("/")[0]


@dataclass(frozen=True)
class Label:
    """A label map in the unit of its task.

    Attributes:
        value: metres, class ids as they are stored, unit vectors ...; 0 where not valid.
        valid: where there is a label.
        palette: colours of the class ids, where the file has some.
        coloured: the class ids are 24-bit numbers of colours.
        boxes: of class ids as they are stored, whose pixels are not valid unless they are known.
    """

    value: Float[Tensor, "d h w"]
    valid: Bool[Tensor, "h w"]
    palette: dict[int, Colour] = field(default_factory=dict)
    coloured: bool = False
    boxes: Boxes | None = None

    @property
    def class_ids(self) -> Int[Tensor, "h w"]:
        """The ids of classes, or the numbers of their colours."""
        return self.value[0].long()

    def with_ids(self, ids: Int[Tensor, "h w"], *, coloured: bool) -> "Label":
        """Return the label with other ids for its pixels."""
        value = torch.where(self.valid, ids, 0).float()[None]
        return replace(self, value=value, coloured=coloured)

    def without(self, marker: int | float) -> "Label":
        """Return the label where pixels of this value have none."""
        valid = self.valid & (self.value[0] != marker)
        return replace(self, value=torch.where(valid, self.value, 0), valid=valid)


def read_label(path: Path, form: LabelFormat) -> Label:
    """Return the label of one file.

    Raises:
        InputError: if it cannot be read, or does not hold what its kind needs.
    """
    if form.kind == "depth":
        unit = form.unit or ("m" if _floating(path) else "mm")
        depth_m, valid = read_depth(path, unit, 0 if form.invalid is None else form.invalid)
        return Label(depth_m[None], valid)
    values, palette, coloured = _numbers(path, form)
    marker = form.invalid
    if marker is None and form.kind == "segmentation" and not coloured:
        marker = NO_CLASS
    known = np.isfinite(values)
    if marker is not None:
        with np.errstate(over="ignore"):  # a marker that this type of number does not reach
            known = known & (values != marker).any(axis=0)
    valid, values = np.logical_and.reduce(known), values.astype(np.float64)
    if form.kind == "segmentation" and not coloured:
        _check_ids(path, values[0][valid])
    encoded = path.suffix.lower() != ".npy"
    if form.kind == "normals":
        return _normals(path, values, valid, encoded)
    full = 255.0 if form.kind == "vector" and encoded else 1.0
    values = values / (form.scale if form.kind == "scalar" else full)
    return _label(path, values, valid, palette, coloured)


def _numbers(path: Path, form: LabelFormat) -> tuple[np.ndarray, dict[int, Colour], bool]:
    """Return the numbers of a file, the colours of its palette, and whether ids are colours.

    Channels come first. Numbers keep the type of the file, in which a marker is compared.
    """
    kind = form.kind
    if path.suffix.lower() == ".npy":
        values = read_array(path, "fiub" if kind in ("segmentation", "scalar") else "fiu")
        return _channels_first(path, values, kind), {}, False
    if path.suffix.lower() == ".pgm":
        return read_counts(path)[None], {}, False
    found: list[tuple[np.ndarray, dict[int, Colour]]] = []

    def take(image: Image.Image) -> np.ndarray:
        if not form.snap:
            _require_lossless(path, image)
        found.append(_pixels(image, kind))
        return found[0][0]

    decode(path, _FORMATS, take)
    ((pixels, palette),) = found
    if pixels.ndim == 2:
        if kind in ("normals", "vector"):
            raise InputError(f"{path}: one channel, but {kind} labels need RGB, or an NPY file")
        return pixels[None], palette, False
    rgb = pixels[..., :3]
    if kind == "segmentation":
        return *_colours(path, rgb, form.snap), True
    if kind == "scalar":
        if (rgb != rgb[..., :1]).any():
            raise InputError(f"{path}: a picture with colours, but a scalar is one channel")
        return rgb[None, ..., 0], {}, False
    return rgb.transpose(2, 0, 1), {}, False


def _pixels(image: Image.Image, kind: str) -> tuple[np.ndarray, dict[int, Colour]]:
    """Return the numbers of a picture, and the colours of its palette."""
    if kind == "segmentation" and image.mode in ("RGBA", "LA"):
        alpha, pixels = np.array(image.getchannel("A")), np.array(image.convert("RGB"))
        # where all pixels have one colour, only the transparency tells classes apart
        is_constant = (pixels == pixels[0, 0]).all()
        return (alpha if is_constant and (alpha != 255).any() else pixels), {}
    if image.mode == "P" and kind == "segmentation":
        flat = image.getpalette("RGB") or []
        rows = zip(*(flat[i::3] for i in range(3)), strict=True)
        return np.array(image), {i: (r, g, b) for i, (r, g, b) in enumerate(rows)}
    if image.mode in ("P", "RGBA", "LA", "CMYK"):
        image = image.convert("RGB")
    return np.array(image), {}


def _require_lossless(path: Path, image: Image.Image) -> None:
    """Refuse pictures whose compression has changed the numbers."""
    name = image.format
    if name == "TIFF":
        is_lossy = str(image.info.get("compression")) in ("jpeg", "tiff_jpeg", "webp")
    elif name == "WEBP":
        is_lossy = _is_lossy_webp(read_bytes(path))
    else:
        is_lossy = name == "JPEG"
    if is_lossy:
        raise InputError(
            f"{path}: lossy compression ({name}) changes the numbers at every edge: save labels as "
            "PNG from their source, or give --snap for class masks"
        )


def _is_lossy_webp(data: bytes) -> bool:
    """Return whether a WebP file has no chunk of lossless pixels."""
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


def _channels_first(path: Path, values: np.ndarray, kind: str) -> np.ndarray:
    shape = " x ".join(map(str, values.shape))
    if values.ndim == 2:
        values = values[None]
    elif values.ndim == 3 and values.shape[2] < min(values.shape[:2]):
        values = values.transpose(2, 0, 1)
    wanted = {"normals": (3,), "vector": (2, 3)}.get(kind, (1,))
    if values.ndim != 3 or len(values) not in wanted:
        channels = " or ".join(map(str, wanted))
        raise InputError(
            f"{path}: an array of {shape}, but {kind} labels have "
            f"{channels} channel(s): save (height, width, channels)"
        )
    return values


def colour_of(number: int) -> Colour:
    """Return the colour of a 24-bit number."""
    return number >> 16, number >> 8 & 255, number & 255


def _colours(path: Path, rgb: np.ndarray, snap: bool) -> tuple[np.ndarray, dict[int, Colour]]:
    """Return class ids, the 24-bit numbers of colours, and the colours."""
    codes = rgb.astype(np.int64) @ (1 << 16, 1 << 8, 1)
    known = np.unique(codes)
    if snap:
        return codes[None], {}
    if len(known) > MOST_COLOURS:
        raise InputError(
            f"{path}: {len(known)} colours are no classes (a smoothed or compressed picture?): "
            "save it as PNG without smoothing, a colour per class, or give --snap"
        )
    return codes[None], {int(code): colour_of(int(code)) for code in known}


def _check_ids(path: Path, ids: np.ndarray) -> None:
    if len(ids) and ((ids != np.round(ids)).any() or ids.min() < 0 or ids.max() > HIGHEST_ID):
        raise InputError(f"{path}: class ids must be whole numbers from 0 to {HIGHEST_ID}")


def _normals(path: Path, values: np.ndarray, valid: np.ndarray, encoded: bool) -> Label:
    vectors = values / 127.5 - 1 if encoded else values
    length = np.linalg.norm(np.where(valid, vectors, 0), axis=0)
    longest = LONGEST_ENCODED_NORMAL if encoded else np.inf
    valid = valid & (length > SHORTEST_NORMAL) & (length < longest)
    return _label(path, vectors / np.where(valid, length, 1), valid)


def _label(
    path: Path,
    values: np.ndarray,
    valid: np.ndarray,
    palette: dict[int, Colour] | None = None,
    coloured: bool = False,
) -> Label:
    with np.errstate(over="ignore"):
        values = np.where(valid, values, 0).astype(np.float32)
    valid = valid & np.isfinite(values).all(axis=0)  # 1e300 is infinite here
    if not valid.any():
        raise InputError(
            f"{path}: no pixel has a label; check --kind and --invalid, or leave this file out"
        )
    values = np.where(valid, values, np.float32(0))
    return Label(torch.from_numpy(values), torch.from_numpy(valid), palette or {}, coloured)


def _floating(path: Path) -> bool:
    if path.suffix.lower() == ".npy":
        array: Any = read_array(path)
        return array.dtype.kind == "f"
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    return bool(decode(path, ("TIFF",), lambda image: np.array(image.mode == "F")))
