"""An image and its depth map on disk: what every data set of files reads, lists and checks."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from diffsight.datasets.base import Sample
from diffsight.datasets.files import read_depth, read_image
from diffsight.types import InputError


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
    """The sample, with label ``depth_m`` (``1 h w``, metres).

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
    """The first fields of every line of a list file, without the slash that some lists start with.

    Raises:
        InputError: if the file cannot be read, has no line, or a line with too few fields.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list ({error}); check the path") from error
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
    """A test for existence that lists every folder once: lists are long, folders few."""

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
