"""Labels of any dense task on disk: what counts, colours or numbers in a file mean."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from diffsight.choices import LabelKind
from diffsight.datasets.files import decode, read_array, read_counts, read_depth
from diffsight.errors import InputError

KINDS: tuple[LabelKind, ...] = get_args(LabelKind)
LABEL_SUFFIXES = frozenset({".npy", ".pgm", ".png", ".tif", ".tiff"})
NO_CLASS = 255  # the marker of most data sets of classes
MOST_COLOURS = 256
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
            the numbers are floating point. Scalar: a name, with ``/N`` where N counts are one
            (``K/100``, ``1/65535``).
        invalid: the count that stands for "no label", in a file of several channels the one that
            all of them have; for ids of classes (not for colours) 255 by default. NaN always does;
            for depth 0 too.
    """

    kind: str
    unit: str | None = None
    invalid: int | float | None = None

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        if self.kind not in KINDS:
            raise InputError(f"unknown kind {self.kind!r}: choose {', '.join(KINDS)}")
        if self.unit is not None and self.kind not in ("depth", "scalar"):
            raise InputError(f"labels of kind {self.kind} have no unit: leave --unit out")
        if self.kind == "scalar":
            _ = self.scale

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
    """

    value: Float[Tensor, "d h w"]
    valid: Bool[Tensor, "h w"]
    palette: dict[int, Colour] = field(default_factory=dict)
    coloured: bool = False


def read_label(path: Path, form: LabelFormat) -> Label:
    """Return the label of one file.

    Raises:
        InputError: if it cannot be read, or does not hold what its kind needs.
    """
    if form.kind == "depth":
        unit = form.unit or ("m" if _floating(path) else "mm")
        depth_m, valid = read_depth(path, unit, 0 if form.invalid is None else form.invalid)
        return Label(depth_m[None], valid)
    values, palette, coloured = _numbers(path, form.kind)
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


def _numbers(path: Path, kind: str) -> tuple[np.ndarray, dict[int, Colour], bool]:
    """Return the numbers of a file, the colours of its palette, and whether ids are colours.

    Channels come first. Numbers keep the type of the file, in which a marker is compared.
    """
    if path.suffix.lower() == ".npy":
        values = read_array(path, "fiub" if kind in ("segmentation", "scalar") else "fiu")
        return _channels_first(path, values, kind), {}, False
    if path.suffix.lower() == ".pgm":
        return read_counts(path)[None], {}, False
    found: list[tuple[np.ndarray, dict[int, Colour]]] = []

    def take(image: Image.Image) -> np.ndarray:
        palette: dict[int, Colour] = {}
        if image.mode == "P" and kind == "segmentation":
            flat = image.getpalette("RGB") or []
            rows = zip(*(flat[i::3] for i in range(3)), strict=True)
            palette = {i: (r, g, b) for i, (r, g, b) in enumerate(rows)}
        elif image.mode in ("P", "RGBA", "LA", "CMYK"):
            image = image.convert("RGB")
        pixels = np.array(image)
        found.append((pixels, palette))
        return pixels

    decode(path, ("PNG", "TIFF"), take)
    ((pixels, palette),) = found
    if pixels.ndim == 2:
        if kind in ("normals", "vector"):
            raise InputError(f"{path}: one channel, but {kind} labels need RGB, or an NPY file")
        return pixels[None], palette, False
    rgb = pixels[..., :3]
    if kind == "segmentation":
        return *_colours(path, rgb), True
    if kind == "scalar":
        if (rgb != rgb[..., :1]).any():
            raise InputError(f"{path}: a picture with colours, but a scalar is one channel")
        return rgb[None, ..., 0], {}, False
    return rgb.transpose(2, 0, 1), {}, False


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


def _colours(path: Path, rgb: np.ndarray) -> tuple[np.ndarray, dict[int, Colour]]:
    """Return class ids, the 24-bit numbers of colours, and the colours."""
    codes = rgb.astype(np.int64) @ (1 << 16, 1 << 8, 1)
    known = np.unique(codes)
    if len(known) > MOST_COLOURS:
        raise InputError(
            f"{path}: {len(known)} colours are no classes (a smoothed or compressed picture?): "
            "save it as PNG without smoothing, a colour per class"
        )
    palette = {int(c): (int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in known}
    return codes[None], palette


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
    if not valid.any():
        raise InputError(
            f"{path}: no pixel has a label; check --kind and --invalid, or leave this file out"
        )
    values = np.where(valid, values, 0).astype(np.float32)
    return Label(torch.from_numpy(values), torch.from_numpy(valid), palette or {}, coloured)


def _floating(path: Path) -> bool:
    if path.suffix.lower() == ".npy":
        array: Any = read_array(path)
        return array.dtype.kind == "f"
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    return bool(decode(path, ("TIFF",), lambda image: np.array(image.mode == "F")))
