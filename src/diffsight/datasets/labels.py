"""Read label files of every kind of dense task, from counts, colours or numbers."""

import contextlib
from collections.abc import Mapping
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
from diffsight.datasets.exact_pixels import opaque_pixels, require_all_bits, require_lossless
from diffsight.datasets.files import decode, read_array
from diffsight.errors import InputError
from diffsight.types import Boxes

KINDS: tuple[LabelKind, ...] = get_args(LabelKind)
LABEL_SUFFIXES = DEPTH_SUFFIXES | {".bmp", ".gif", ".ppm", ".webp"}
LOSSY_SUFFIXES = frozenset({".jpeg", ".jpg"})
NO_CLASS = 255  # class id that means "no label" in most data sets
MAX_COLOURS = 256  # in a mask of one colour per class
_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "PPM", "WEBP", "JPEG")
HIGHEST_ID = 65535  # largest class id in a file of one channel
# encoded normals should have the length 1; a grey pixel, which has no direction, has the length 0
SHORTEST_NORMAL = 0.5
# some files fill holes with black or white, which have the length 1.7
LONGEST_ENCODED_NORMAL = 1.5
MAX_MEDIAN_ERROR = 0.15  # of the length of encoded normals; the colours of class masks exceed it

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class LabelFormat:
    """Format of label files.

    Attributes:
        kind: ``segmentation`` (class ids in one channel or a palette, or one colour per class),
            ``depth`` (metric), ``scalar``, ``normals`` (RGB values v that encode
            (v - 127.5) / 127.5, or numbers; x right, y down, z forward), or ``vector`` (RGB values
            v that encode v / 255, or numbers).
        unit: unit of one stored count. For depth see ``read_depth``; None means mm, or metres for
            floating-point numbers and for points. For scalars it is a name, followed by ``/N`` if
            there are N counts per unit (``K/100``, ``1/65535``).
        invalid: count that means "no label"; with several channels all of them must have it. None
            means 255 for class ids, and no count for colours and other kinds. NaN always means "no
            label", and so do 0 for depth and transparent pixels, except in class masks.
        snap: accept class masks that are smoothed or compressed, also as JPEG, with any number of
            different values; every value then becomes the nearest class value.
        uses_alpha: whether the transparency of a class mask of one colour is the mask. None means
            that it is, if a pixel is transparent.
    """

    kind: str
    unit: str | None = None
    invalid: int | float | None = None
    snap: bool = False
    uses_alpha: bool | None = None

    def __post_init__(self) -> None:
        """Raise an error for options that contradict each other.

        Raises:
            InputError: if the kind is unknown, or does not support ``unit`` or ``snap``.
        """
        if self.kind not in KINDS:
            raise InputError(f"unknown kind {self.kind!r}: choose {', '.join(KINDS)}")
        if self.unit is not None and self.kind not in ("depth", "scalar"):
            raise InputError(f"labels of kind {self.kind} have no unit: remove --unit")
        if self.kind == "scalar":
            _ = self.scale
        if self.snap and self.kind != "segmentation":
            raise InputError(f"--snap is only for class masks, not for {self.kind}: remove --snap")

    @property
    def scale(self) -> float:
        """Number of stored counts per unit of a scalar: 100 for the unit ``K/100``, 1 for ``K``.

        Raises:
            InputError: if ``unit`` is malformed.
        """
        _, slash, divisor = (self.unit or "").partition("/")
        with contextlib.suppress(ValueError):
            if not slash or 0 < float(divisor) < float("inf"):
                return float(divisor) if slash else 1.0
        raise InputError(
            f"malformed unit {self.unit!r}: give NAME, or NAME/N for N counts per unit (K/100)"
        )

    @property
    def value_unit(self) -> str:
        """Unit of the labels after reading: m, the name of a scalar's unit, or an empty string."""
        if self.kind == "depth":
            return "m"
        return "" if self.kind != "scalar" else (self.unit or "counts").partition("/")[0]


@dataclass(frozen=True)
class Label:
    """A label map in the unit of its task.

    Attributes:
        value: metres, stored class ids, unit vectors ...; 0 where not valid.
        valid: mask of pixels with a label.
        palette: colours by class id, if the file has a palette.
        coloured: whether the class ids are 24-bit numbers of colours.
        boxes: boxes of objects by stored class id. Pixels inside are only valid if another
            annotation labels them.
        is_bilevel: whether the file has one bit per pixel; white is 1.
    """

    value: Float[Tensor, "d h w"]
    valid: Bool[Tensor, "h w"]
    palette: dict[int, Colour] = field(default_factory=dict)
    coloured: bool = False
    boxes: Boxes | None = None
    is_bilevel: bool = False

    @property
    def class_ids(self) -> Int[Tensor, "h w"]:
        """Class ids, or the 24-bit numbers of the class colours."""
        return self.value[0].long()

    def with_ids(self, ids: Int[Tensor, "h w"], *, coloured: bool) -> "Label":
        """Return the label with other class ids.

        Args:
            ids: class ids, or 24-bit numbers of colours.
            coloured: whether they are numbers of colours.
        """
        value = torch.where(self.valid, ids, 0).float()[None]
        return replace(self, value=value, coloured=coloured)

    def renumber(self, ids: Mapping[int, int]) -> "Label":
        """Return the label with other class ids, in its boxes too.

        Args:
            ids: new class id by the present one, for all ids that occur.
        """
        if not ids:
            return self
        present = torch.tensor(sorted(ids))
        new = torch.tensor([ids[number] for number in present.tolist()])

        def map_ids(numbers: Tensor) -> Tensor:
            return new[torch.searchsorted(present, numbers.contiguous()).clamp(max=len(new) - 1)]

        label = self.with_ids(map_ids(self.class_ids), coloured=self.coloured)
        if (boxes := self.boxes) is None:
            return label
        class_ids, background = map_ids(boxes.class_ids), ids[boxes.background]
        return replace(label, boxes=replace(boxes, class_ids=class_ids, background=background))

    def without(self, marker: int | float) -> "Label":
        """Return the label with pixels of the value ``marker`` marked as not valid."""
        valid = self.valid & (self.value[0] != marker)
        return replace(self, value=torch.where(valid, self.value, 0), valid=valid)


def read_label(path: Path, form: LabelFormat) -> Label:
    """Return the label map in a file.

    Args:
        path: path of the file.
        form: format with which it is read.

    Raises:
        InputError: if the file cannot be read, or its content does not fit the format.
    """
    if form.kind == "depth":
        unit = form.unit or ("m" if _is_floating_point(path) else "mm")
        depth_m, valid = read_depth(path, unit, 0 if form.invalid is None else form.invalid)
        return Label(depth_m[None], valid)
    values, palette, coloured = _read_values(path, form)
    marker = form.invalid
    if marker is None and form.kind == "segmentation" and not coloured:
        marker = NO_CLASS
    encoded = path.suffix.lower() != ".npy"
    is_bilevel = encoded and values.dtype.kind == "b"
    usable = np.isfinite(values)
    if marker is not None:
        with np.errstate(over="ignore"):  # the marker may be beyond the range of the array's type
            usable = usable & (values != marker).any(axis=0)
    valid, values = np.logical_and.reduce(usable), values.astype(np.float64)
    if form.kind == "segmentation" and not coloured:
        _check_ids(path, values[0][valid])
    if form.kind == "normals":
        return _make_normals(path, values, valid, encoded)
    scale = 255.0 if form.kind == "vector" and encoded else 1.0
    values = values / (form.scale if form.kind == "scalar" else scale)
    label = _make_label(path, values, valid, palette, coloured)
    return replace(label, is_bilevel=is_bilevel)


def _read_values(path: Path, form: LabelFormat) -> tuple[np.ndarray, dict[int, Colour], bool]:
    """Return the values ``c h w`` in a file, its palette, and whether values are colours.

    The values keep the dtype of the file, in which they must be compared with ``form.invalid``;
    those of files with transparency are float32.

    Raises:
        InputError: if the file cannot be read, or does not fit the format.
    """
    kind = form.kind
    if path.suffix.lower() == ".npy":
        values = read_array(path, "fiub" if kind in ("segmentation", "scalar") else "fiu")
        return _move_channels_first(path, values, kind), {}, False
    if path.suffix.lower() == ".pgm":
        return read_counts(path)[None], {}, False
    palette: dict[int, Colour] = {}

    def to_array(image: Image.Image) -> np.ndarray:
        if not form.snap:
            require_lossless(path, image)
        require_all_bits(path, image, kind)
        if kind != "segmentation":
            return _read_numbers(image)
        pixels, colours = _read_class_pixels(image, form.uses_alpha)
        palette.update(colours)
        return pixels

    pixels = decode(path, _FORMATS, to_array)
    if pixels.ndim == 2:
        if kind in ("normals", "vector"):
            raise InputError(f"{path}: one channel, but {kind} labels need RGB, or an NPY file")
        return pixels[None], palette, False
    rgb = pixels[..., :3]
    if kind == "segmentation":
        return *_encode_colours(path, rgb, form.snap), True
    if kind == "scalar":
        if (rgb != rgb[..., :1])[~np.isnan(rgb)].any():
            raise InputError(
                f"{path}: a colour image, but scalar labels need one channel: save as grey"
            )
        return rgb[None, ..., 0], {}, False
    return rgb.transpose(2, 0, 1), {}, False


def _read_class_pixels(
    image: Image.Image, uses_alpha: bool | None
) -> tuple[np.ndarray, dict[int, Colour]]:
    """Return the pixels ``h w`` or ``h w c`` of a class mask, and the colours of its palette.

    Args:
        image: class mask.
        uses_alpha: see ``LabelFormat.uses_alpha``.
    """
    if image.mode in ("RGBA", "LA"):
        alpha, pixels = np.array(image.getchannel("A")), np.array(image.convert("RGB"))
        if uses_alpha is None:
            uses_alpha = bool((alpha != 255).any())
        # if all pixels have one colour, the transparency distinguishes the classes
        return (alpha if uses_alpha and (pixels == pixels[0, 0]).all() else pixels), {}
    if image.mode == "P":
        flat = image.getpalette("RGB") or []
        rows = zip(*(flat[i::3] for i in range(3)), strict=True)
        return np.array(image), {i: (r, g, b) for i, (r, g, b) in enumerate(rows)}
    return np.array(image.convert("RGB") if image.mode == "CMYK" else image), {}


def _read_numbers(image: Image.Image) -> np.ndarray:
    """Return the pixels ``h w`` or ``h w c`` of an image; transparent pixels are NaN."""
    is_opaque = opaque_pixels(image)
    if image.mode in ("P", "RGBA", "LA", "CMYK"):
        image = image.convert("RGB")
    pixels = np.array(image)
    if is_opaque is None:
        return pixels
    is_opaque = is_opaque.reshape(*is_opaque.shape, *[1] * (pixels.ndim - 2))
    return np.where(is_opaque, pixels.astype(np.float32), np.nan)


def _move_channels_first(path: Path, values: np.ndarray, kind: str) -> np.ndarray:
    """Return an array ``h w``, ``h w c`` or ``c h w`` as ``c h w``.

    Raises:
        InputError: if its number of channels does not fit the kind of labels.
    """
    shape = " x ".join(map(str, values.shape))
    if values.ndim == 2:
        values = values[None]
    elif values.ndim == 3 and values.shape[2] < min(values.shape[:2]):
        values = values.transpose(2, 0, 1)
    allowed = {"normals": (3,), "vector": (2, 3)}.get(kind, (1,))
    if values.ndim != 3 or len(values) not in allowed:
        channels = " or ".join(map(str, allowed))
        raise InputError(
            f"{path}: an array of {shape}, but {kind} labels have "
            f"{channels} channel(s): save (height, width, channels)"
        )
    return values


def unpack_colour(number: int) -> Colour:
    """Return red, green and blue (0 to 255) of the 24-bit number of a colour."""
    return number >> 16, number >> 8 & 255, number & 255


def _encode_colours(
    path: Path, rgb: np.ndarray, snap: bool
) -> tuple[np.ndarray, dict[int, Colour]]:
    """Return the colours ``h w c`` as 24-bit numbers ``1 h w``, and the palette of these numbers.

    Raises:
        InputError: without ``snap``, if there are more than ``MAX_COLOURS`` colours.
    """
    codes = rgb.astype(np.int64) @ (1 << 16, 1 << 8, 1)
    unique_codes = np.unique(codes)
    if snap:
        return codes[None], {}
    if len(unique_codes) > MAX_COLOURS:
        raise InputError(
            f"{path}: {len(unique_codes)} colours are too many for classes (is the mask smoothed "
            "or compressed?): save it as PNG without smoothing, or give --snap"
        )
    return codes[None], {int(code): unpack_colour(int(code)) for code in unique_codes}


def _check_ids(path: Path, ids: np.ndarray) -> None:
    """Raise an error for class ids out of range.

    Raises:
        InputError: if an id is not a whole number from 0 to ``HIGHEST_ID``.
    """
    if len(ids) and ((ids != np.round(ids)).any() or ids.min() < 0 or ids.max() > HIGHEST_ID):
        raise InputError(f"{path}: class ids must be whole numbers from 0 to {HIGHEST_ID}")


def _make_normals(path: Path, values: np.ndarray, valid: np.ndarray, encoded: bool) -> Label:
    """Return the label of surface normals, scaled to unit length.

    Args:
        path: path of the file, for messages.
        values: vectors ``3 h w``, or their RGB encoding.
        valid: mask of pixels that may have a label. Vectors that are much shorter than 1, and
            encoded ones that are much longer, are marked as not valid.
        encoded: whether ``values`` are RGB.

    Raises:
        InputError: if no pixel has a direction, or most colours are far from a unit vector.
    """
    vectors = values / 127.5 - 1 if encoded else values
    length = np.linalg.norm(np.where(valid, vectors, 0), axis=0)
    longest = LONGEST_ENCODED_NORMAL if encoded else np.inf
    valid = valid & (length > SHORTEST_NORMAL) & (length < longest)
    if encoded and valid.any():
        median = float(np.median(length[valid]))
        if abs(median - 1) > MAX_MEDIAN_ERROR:
            raise InputError(
                f"{path}: its colours are no unit vectors (median length {median:.2f}): check "
                "--kind, or save 127.5 + 127.5 n of every normal n"
            )
    return _make_label(path, vectors / np.where(valid, length, 1), valid)


def _make_label(
    path: Path,
    values: np.ndarray,
    valid: np.ndarray,
    palette: dict[int, Colour] | None = None,
    coloured: bool = False,
) -> Label:
    """Return the label of float32 with the given values.

    Args:
        path: path of the file, for messages.
        values: values ``d h w`` in the unit of the task.
        valid: mask of pixels with a label.
        palette: colours by class id.
        coloured: whether the values are 24-bit numbers of colours.

    Raises:
        InputError: if no pixel has a label.
    """
    with np.errstate(over="ignore"):
        values = np.where(valid, values, 0).astype(np.float32)
    valid = valid & np.isfinite(values).all(axis=0)  # 1e300 is infinite as float32
    if not valid.any():
        raise InputError(
            f"{path}: no pixel has a label; check --kind and --invalid, or remove this file"
        )
    values = np.where(valid, values, np.float32(0))
    return Label(torch.from_numpy(values), torch.from_numpy(valid), palette or {}, coloured)


def _is_floating_point(path: Path) -> bool:
    """Return whether an NPY or TIFF file contains floating-point numbers."""
    if path.suffix.lower() == ".npy":
        array: Any = read_array(path)
        return array.dtype.kind == "f"
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    return bool(decode(path, ("TIFF",), lambda image: np.array(image.mode == "F")))
