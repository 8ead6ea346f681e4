"""Read lists of class names from text files, written by hand or by annotation tools."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from diffsight.datasets.files import read_text
from diffsight.errors import InputError
from diffsight.label_maps import clean_name

# the formats are CVAT's name:red,green,blue:parts:actions, then name,red,green,blue, then id,name
_CVAT = re.compile(r"(.+?):(\d{1,3}),(\d{1,3}),(\d{1,3}):[^:]*:[^:]*")
_NAME_COLOUR = re.compile(r"([^,]+?)\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})")
_ID_NAME = re.compile(r"(\d{1,5})\s*[,;:\t]\s*(.+)")


@dataclass(frozen=True)
class ClassList:
    """Class names by the values that label files store for the classes.

    Attributes:
        names: class names by key.
        keys: meaning of the keys. ``id``: class ids. ``colour``: colours as 24-bit numbers, ``red
            << 16 | green << 8 | blue``. ``position``: positions in a plain list, counted from 0;
            they are class ids, or in coloured masks the ranks of the colours' numbers.
    """

    names: Mapping[int, str]
    keys: Literal["position", "id", "colour"] = "position"

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.names)

    @classmethod
    def of(cls, names: "Sequence[str] | ClassList") -> "Self | ClassList":
        """Return a sequence of names as a class list; a class list is returned unchanged."""
        if isinstance(names, ClassList):
            return names
        return cls(dict(enumerate(names)))


def read_class_list(path: Path, *, skip_empty: bool = False) -> ClassList:
    """Return the classes listed in a text file.

    A line is a name, ``id, name`` (as in Roboflow's ``_classes.csv``), ``name,red,green,blue``, or
    a line of CVAT's ``labelmap.txt``. The first line may contain column titles.

    Args:
        path: path of the file.
        skip_empty: skip empty lines instead of raising an error. The ids of a plain list of names
            then count only the lines with a name.

    Raises:
        InputError: if the file cannot be read, contains no name or an empty line, or lists an id or
            a colour twice.
    """
    lines = read_text(path, "a list of names").rstrip().splitlines()
    if skip_empty:
        lines = [line for line in lines if line.strip()]
    if not lines:
        raise InputError(f"{path}: contains no name: write one name per line")
    patterns: tuple[tuple[re.Pattern[str], Literal["id", "colour"]], ...] = (
        (_CVAT, "colour"),
        (_NAME_COLOUR, "colour"),
        (_ID_NAME, "id"),
    )
    for pattern, keys in patterns:
        rows = _match_lines(lines, pattern)
        if rows is not None:
            entries = sorted(_parse_entry(path, row, keys == "colour") for row in rows)
            if len(dict(entries)) < len(entries):
                raise InputError(f"{path}: two classes have the same {keys}: use each {keys} once")
            return ClassList(dict(entries), keys)
    names = [clean_name(line).strip() for line in lines]
    if "" in names:
        raise InputError(
            f"{path}: line {names.index('') + 1} is empty: write one name per id, from 0 on"
        )
    return ClassList(dict(enumerate(names)))


def read_names(path: Path) -> list[str]:
    """Return the class names in a text file in their order; empty lines are skipped.

    Raises:
        InputError: if ``read_class_list`` cannot read the file.
    """
    return list(read_class_list(path, skip_empty=True).names.values())


def _match_lines(lines: Sequence[str], pattern: re.Pattern[str]) -> list[tuple[str, ...]] | None:
    """Return the fields of every line, or None if a line does not match the pattern.

    Comments, empty lines and a title in the first line are skipped.
    """
    lines = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    matches = [pattern.fullmatch(line) for line in lines]
    if matches and matches[0] is None:
        matches = matches[1:]
    rows = [match.groups() for match in matches if match is not None]
    return rows if rows and len(rows) == len(matches) else None


def _parse_entry(path: Path, row: tuple[str, ...], is_colour: bool) -> tuple[int, str]:
    """Return the class id, or the colour as a 24-bit number, and the class name of a line.

    Args:
        path: path of the file, for messages.
        row: fields of the line: id and name, or name, red, green and blue.
        is_colour: whether the line has a colour, not an id.

    Raises:
        InputError: if a colour channel is above 255.
    """
    if not is_colour:
        return int(row[0]), clean_name(row[1]).strip()
    red, green, blue = map(int, row[1:])
    if max(red, green, blue) > 255:
        raise InputError(f"{path}: {row[0]}: write its colour as three numbers from 0 to 255")
    return red << 16 | green << 8 | blue, clean_name(row[0]).strip()
