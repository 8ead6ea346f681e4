"""An image and its label on disk: what every data set of files reads, lists and checks."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from diffsight.datasets.base import Sample
from diffsight.datasets.files import IMAGE_SUFFIXES, read_depth, read_image
from diffsight.errors import InputError
from diffsight.formats.text import read_lines


@dataclass(frozen=True)
class Pair:
    """Where one sample is.

    Attributes:
        id: name of the sample, without the part of the path that differs between machines.
        image: file for ``read_image``.
        depth: file for ``read_depth``.
        encoding: of the depth, as ``read_depth`` takes it.
        prompt: text name of the sample, or None.
    """

    id: str
    image: Path
    depth: Path
    encoding: str
    prompt: str | None = None


def read_pair(pair: Pair, invalid: int | float = 0) -> Sample:
    """Return the sample, with label ``depth_m`` (``1 h w``, metres).

    Raises:
        InputError: if a file cannot be used, or the two differ in size.
    """
    image = read_image(pair.image)
    depth_m, valid = read_depth(pair.depth, pair.encoding, invalid)
    if depth_m.shape != image.shape[-2:]:
        rows, columns = image.shape[-2:]
        raise InputError(
            f"{pair.depth}: depth of {depth_m.shape[1]} x {depth_m.shape[0]} pixels for an image "
            f"({pair.image}) of {columns} x {rows}: give both the same size, upright as the image "
            "is shown (its EXIF orientation is applied)"
        )
    return Sample(pair.id, image, {"depth_m": depth_m[None]}, {"depth_m": valid}, pair.prompt)


def read_list(path: Path, columns: int) -> list[tuple[str, ...]]:
    """Return the first fields of every line of a list file, without a leading slash.

    Raises:
        InputError: if the file cannot be read, has no line, or a line with too few fields.
    """
    lines = read_lines(path, "cannot be read as a list ({reason}); check the path")
    rows = []
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) < columns:
            raise InputError(
                f"{path}, line {number}: {len(fields)} field(s) instead of {columns}; a line is "
                "'IMAGE DEPTH', further fields are ignored"
            )
        rows.append(tuple(field.lstrip("/") for field in fields[:columns]))
    if not rows:
        raise InputError(f"{path}: the list is empty; give one line 'IMAGE DEPTH' per sample")
    return rows


def file_finder() -> Callable[[Path], bool]:
    """Return a test for existence that lists every folder once: lists are long, folders few."""

    @functools.cache
    def names(folder: Path) -> frozenset[str]:
        return frozenset(p.name for p in folder.iterdir()) if folder.is_dir() else frozenset()

    return lambda path: path.name in names(path.parent)


def require_files(pairs: Iterable[Pair], repair: str) -> None:
    """Check that every file is there.

    Raises:
        InputError: with the number of missing files, the first of them, and ``repair``.
    """
    exists = file_finder()
    paths = [path for pair in pairs for path in (pair.image, pair.depth)]
    missing = [path for path in paths if not exists(path)]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(paths)} files are missing (first: {missing[0]}); {repair}"
        )


def match_names(
    images: Path, labels: Path, suffixes: frozenset[str], kind: str, otherwise: str = ""
) -> list[tuple[Path, Path]]:
    """Return images and their labels, ordered by name.

    The paths below the two folders agree but for the suffix and for upper and lower case.

    Args:
        images: folder of the images.
        labels: folder of the labels.
        suffixes: of files that are labels.
        kind: what a label is called in messages.
        otherwise: another way out, for messages.

    Raises:
        InputError: if a folder is missing or empty, or a file has no partner.
    """
    image_files = _by_name(images, IMAGE_SUFFIXES, "image", otherwise)
    label_files = _by_name(labels, suffixes, kind, otherwise)
    for files, others, which, partner in (
        (image_files, label_files, f"image(s) in {images}", f"{kind} in {labels}"),
        (label_files, image_files, f"{kind}(s) in {labels}", f"image in {images}"),
    ):
        alone = [file for name, file in files.items() if name not in others]
        if alone:
            raise InputError(
                f"{len(alone)} of {len(files)} {which} have no {partner} of the same name (first: "
                f"{alone[0]}); add or remove files{otherwise}"
            )
    return [(file, label_files[name]) for name, file in image_files.items()]


def require_one_size(label: Path, ids: Tensor, path: Path, image: Tensor) -> None:
    """Refuse classes ``h w`` and an image ``c h w`` of different sizes.

    Raises:
        InputError: naming both files and sizes.
    """
    if ids.shape != image.shape[-2:]:
        raise InputError(
            f"{label}: {ids.shape[1]} x {ids.shape[0]} pixels for an image ({path}) of "
            f"{image.shape[2]} x {image.shape[1]}: give both the same size"
        )


def one_side(
    images: Sequence[Path], split: Literal["train", "val", "all"], val_fraction: float, root: Path
) -> list[int]:
    """Return which images belong to a split, ordered by content; ``val`` has the lowest hashes.

    Args:
        images: in an order that distinguishes copies of one image.
        split: ``all`` are all, as they come.
        val_fraction: expected fraction of ``val``; neither side is empty.
        root: folder, for messages.

    Raises:
        InputError: for a fraction that is not between 0 and 1, or a single image.
    """
    if split == "all":
        return list(range(len(images)))
    if not 0 < val_fraction < 1:
        raise InputError(f"val_fraction is {val_fraction}; give a fraction between 0 and 1")
    if len(images) < 2:
        raise InputError(f"{root}: one sample cannot be split; use split 'all' or add images")
    hashes = [content_hash(image) for image in images]
    ordered = sorted(range(len(images)), key=lambda index: (hashes[index], index))
    low = sum(int(one[:16], 16) < val_fraction * 2**64 for one in hashes)
    border = min(max(low, 1), len(images) - 1)
    return ordered[:border] if split == "val" else ordered[border:]


def content_hash(path: Path) -> str:
    """Return SHA-256 of a file's bytes, whatever its name and folder are."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _by_name(folder: Path, suffixes: frozenset[str], kind: str, otherwise: str) -> dict[str, Path]:
    """Return files below ``folder`` by their path without suffix, in lower case."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; put the {kind}s there or name another folder")
    files: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        inner = file.relative_to(folder)
        hidden = any(part.startswith(".") for part in inner.parts)
        if hidden or file.suffix.lower() not in suffixes or not file.is_file():
            continue
        name = inner.with_suffix("").as_posix().casefold()
        if name in files:
            raise InputError(
                f"{file}: has the same name as {files[name]}, so its partner is not clear; "
                f"remove one{otherwise}"
            )
        files[name] = file
    if not files:
        known = " ".join(sorted(suffixes))
        raise InputError(f"{folder}: holds no {kind} ({known}); check the folder's name")
    return files
