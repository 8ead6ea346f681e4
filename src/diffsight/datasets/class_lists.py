"""Lists of class names in text files, as people and annotation tools write them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from diffsight.datasets.files import read_text
from diffsight.errors import InputError
from diffsight.label_maps import clean_name

# name:red,green,blue:parts:actions of CVAT, and name,red,green,blue
_CVAT = re.compile(r"(.+?):(\d{1,3}),(\d{1,3}),(\d{1,3}):[^:]*:[^:]*")
_NAME_COLOUR = re.compile(r"([^,]+?)\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})")
_ID_NAME = re.compile(r"(\d{1,5})\s*[,;:\t]\s*(.+)")


@dataclass(frozen=True)
class ClassList:
    """Names of classes by what label files store for them.

    Attributes:
        names: by key.
        keys: ``id``; ``colour``, a 24-bit number; or ``position`` in a plain list, which is the id,
            or for masks in colours the rank of the colour.
    """

    names: Mapping[int, str]
    keys: Literal["position", "id", "colour"] = "position"

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.names)

    @classmethod
    def of(cls, names: "Sequence[str] | ClassList") -> "Self | ClassList":
        """Return names in an order as a list of classes, and a list as it is."""
        if isinstance(names, ClassList):
            return names
        return cls(dict(enumerate(names)))


def read_class_list(path: Path, *, skip_empty: bool = False) -> ClassList:
    """Return the classes in a text file.

    Read are a name per line, ``id, name`` (Roboflow's ``_classes.csv``), ``name,red,green,blue``,
    and ``labelmap.txt`` of CVAT; a first line with the titles of the columns may be there.

    Args:
        path: the file.
        skip_empty: leave out empty lines, where a name's line is not its id.

    Raises:
        InputError: if the file cannot be read, holds no name, an empty line, or an id or colour
            twice.
    """
    lines = read_text(path, "a list of names").rstrip().splitlines()
    if skip_empty:
        lines = [line for line in lines if line.strip()]
    if not lines:
        raise InputError(f"{path}: holds no name: write one per line")
    patterns: tuple[tuple[re.Pattern[str], Literal["id", "colour"]], ...] = (
        (_CVAT, "colour"),
        (_NAME_COLOUR, "colour"),
        (_ID_NAME, "id"),
    )
    for pattern, keys in patterns:
        rows = _rows(lines, pattern)
        if rows is not None:
            entries = sorted(_entry(path, row, keys == "colour") for row in rows)
            if len(dict(entries)) < len(entries):
                raise InputError(f"{path}: two classes have the same {keys}: give each its own")
            return ClassList(dict(entries), keys)
    names = [clean_name(line).strip() for line in lines]
    if "" in names:
        raise InputError(
            f"{path}: line {names.index('') + 1} is empty: write a name for every id, from 0 on"
        )
    return ClassList(dict(enumerate(names)))


def read_names(path: Path) -> list[str]:
    """Return the names of ``read_class_list`` in their order; empty lines are left out.

    Raises:
        InputError: as there.
    """
    return list(read_class_list(path, skip_empty=True).names.values())


def _rows(lines: Sequence[str], pattern: re.Pattern[str]) -> list[tuple[str, ...]] | None:
    """Return the fields of all lines but comments and a title; None if one does not fit."""
    lines = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    matches = [pattern.fullmatch(line) for line in lines]
    if matches and matches[0] is None:
        matches = matches[1:]
    rows = [match.groups() for match in matches if match is not None]
    return rows if rows and len(rows) == len(matches) else None


def _entry(path: Path, row: tuple[str, ...], is_colour: bool) -> tuple[int, str]:
    if not is_colour:
        return int(row[0]), clean_name(row[1]).strip()
    red, green, blue = map(int, row[1:])
    if max(red, green, blue) > 255:
        raise InputError(f"{path}: {row[0]}: a colour has three numbers from 0 to 255")
    return red << 16 | green << 8 | blue, clean_name(row[0]).strip()
