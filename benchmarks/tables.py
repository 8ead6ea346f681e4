"""Store the results of an experiment as one CSV table, with one row per unit.

Scripts write every finished unit as a JSON file into a working folder outside of git, such as
``runs/few_shot``. ``pack`` adds the units of such a folder to the table of the experiment.
``unpack`` writes the rows of a table as unit files, so that a script reads them and does not run
them again. A table does not keep the scores of single images, only which images were scored.

Columns: ``unit`` is the path of the unit's file without ``.json``. Values of nested dictionaries
have columns of their own (``measures/miou``), ``settings/...`` come from the ``settings.json`` in
the unit's folder, and ``train/3-5,9`` stands for the images 3, 4, 5 and 9 of the split ``train``.

    python benchmarks/tables.py unpack benchmarks/tables/few_shot_tasks.csv runs/few_shot/tasks
    python benchmarks/tables.py pack runs/few_shot/tasks benchmarks/tables/few_shot_tasks.csv
"""

import argparse
import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reporting import write_json, write_text

from diffsight.errors import InputError
from diffsight.formats.text import reading

TABLES = Path(__file__).parent / "tables"
SETTINGS = "settings.json"
NOT_UNITS = (SETTINGS, "report.json")
MOST_IMAGES = 100_000  # of a unit
LONGEST_NAME = 200  # of a folder or file
Units = dict[str, dict[str, Any]]  # by the unit's path without .json


def pack(folder: Path, table: Path) -> None:
    """Add the units of a folder to a table; a unit that is in both is taken from the folder.

    Raises:
        InputError: if a unit's file is damaged or its images are not named SPLIT/NUMBER.
    """
    units = read(table) | _read_folder(folder)
    if not units:
        raise InputError(f"{folder}: holds no unit: give the folder that a benchmark wrote")
    rows = {name: _flatten(units[name]) for name in sorted(units)}
    text = io.StringIO()
    writer = csv.DictWriter(text, ["unit", *_columns(list(rows.values()))], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"unit": name} | row for name, row in rows.items())
    table.parent.mkdir(parents=True, exist_ok=True)
    write_text(table, text.getvalue())


def unpack(table: Path, folder: Path) -> None:
    """Write the rows of a table as unit files, without changing a file that is there.

    Raises:
        InputError: if a file in the folder differs from the table.
    """
    there = _read_folder(folder)
    for name, unit in read(table).items():
        path = folder / f"{name}.json"
        if name not in there:
            settings = unit.pop("settings", None)
            path.parent.mkdir(parents=True, exist_ok=True)
            if settings is not None:
                _write_settings(path.with_name(SETTINGS), settings, table)
            write_json(path, unit)
        elif _flatten(there[name]) != _flatten(unit):
            raise InputError(
                f"{path}: differs from its row in {table}: delete the file to keep the row, or the "
                "row to keep the file"
            )


def read(table: Path) -> Units:
    """Return the units of a table, none if it does not exist.

    Scores of single images are None.

    Raises:
        InputError: if the table is damaged.
    """
    if not table.exists():
        return {}
    with reading(table, "damaged ({reason}): take it from the repository again"):
        with table.open(encoding="utf-8", newline="") as file:
            try:
                rows = list(csv.DictReader(file))
            except csv.Error as error:
                raise ValueError(str(error)) from None
        return {_checked_name(row.pop("unit")): _unflatten(row) for row in rows}


def _checked_name(name: str) -> str:
    """Return the path of a unit, which may not lead out of its folder."""
    parts = name.split("/")
    if not all(0 < len(part) <= LONGEST_NAME and part.isprintable() for part in parts):
        raise ValueError(f"{name[:LONGEST_NAME]!r} is no path of a unit")
    if {".", ".."} & {*parts}:
        raise ValueError(f"the unit {name!r} lies outside of the folder")
    return name


def _read_folder(folder: Path) -> Units:
    """Return the units of a folder, each with the settings that lie with it."""
    units = {}
    for path in sorted(folder.rglob("*.json")):
        if path.name not in NOT_UNITS:
            unit, settings = _load(path), path.with_name(SETTINGS)
            if settings.exists():
                unit["settings"] = _load(settings)
            units[path.relative_to(folder).with_suffix("").as_posix()] = unit
    return units


def _load(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"{path}: damaged: delete it, so that the unit runs again") from None


def _write_settings(path: Path, settings: dict[str, Any], table: Path) -> None:
    if not path.exists():
        write_json(path, settings)
    elif _load(path) != settings:
        raise InputError(f"{path}: other settings than {table}: give another folder")


def _columns(rows: Sequence[dict[str, str]]) -> list[str]:
    """Return the columns of all rows, each after the one that precedes it in its row."""
    columns: list[str] = []
    for row in rows:
        position = 0
        for name in row:
            if name not in columns:
                columns.insert(position, name)
            position = columns.index(name) + 1
    return columns


def _flatten(unit: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return the cells of a unit by column; numbers, booleans and lists are written as JSON."""
    cells = {}
    for name, value in unit.items():
        assert "/" not in name, name
        column = prefix + name
        if column == "per_image":
            cells["images"] = _to_ranges(list(value))
        elif column == "training_images":
            cells[column] = _to_ranges(value)
        elif isinstance(value, dict) and value:
            cells |= _flatten(value, f"{column}/")
        else:
            cells[column] = _to_cell(value)
    return cells


def _unflatten(cells: dict[str, str]) -> dict[str, Any]:
    """Return the unit of a row."""
    unit: dict[str, Any] = {}
    for column, cell in cells.items():
        if not cell:
            continue
        *parents, name = column.split("/")
        inner = unit
        for parent in parents:
            inner = inner.setdefault(parent, {})
        if column == "images":
            inner["per_image"] = dict.fromkeys(_from_ranges(cell))
        elif column == "training_images":
            inner[name] = _from_ranges(cell)
        else:
            inner[name] = _from_cell(cell)
    return unit


def _to_cell(value: Any) -> str:
    """Return a text as it is, unless it would be read as JSON (a hash may be all digits)."""
    if isinstance(value, str) and value and _from_cell(value) is value:
        return value
    return json.dumps(value)


def _from_cell(cell: str) -> Any:
    try:
        return json.loads(cell)
    except ValueError:
        return cell


def _to_ranges(names: Sequence[str]) -> str:
    """Return the names of images in short: train/3, train/4 and train/9 as ``train/3-4,9``."""
    runs: list[list[int]] = []
    split = names[0].rpartition("/")[0] if names else ""
    for number in (name.rpartition("/")[2] for name in names):
        if not number.isdecimal():
            raise InputError(f"image {number!r}: a table needs names such as train/12")
        if runs and int(number) == runs[-1][1] + 1:
            runs[-1][1] += 1
        else:
            runs.append([int(number)] * 2)
    text = f"{split}/" + ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
    if _from_ranges(text) != list(names):
        raise InputError(f"images {names[0]}, ...: a table needs names of one split, as train/12")
    return text


def _from_ranges(text: str) -> list[str]:
    """Return the names of images in full."""
    split, _, runs = text.rpartition("/")
    names = []
    for run in runs.split(","):
        first, _, last = run.partition("-")
        numbers = range(int(first), int(last or first) + 1)
        if len(names) + len(numbers) > MOST_IMAGES:
            raise ValueError(f"more than {MOST_IMAGES:,} images")
        names += [f"{split}/{number}" for number in numbers]
    return names


def main() -> None:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("pack", help="add the units of a folder to a table")
    one.add_argument("folder", type=Path)
    one.add_argument("table", type=Path)
    other = commands.add_parser("unpack", help="write the rows of a table as unit files")
    other.add_argument("table", type=Path)
    other.add_argument("folder", type=Path)
    args = parser.parse_args()
    if args.command == "pack":
        pack(args.folder, args.table)
    elif args.table.exists():
        unpack(args.table, args.folder)
    else:
        raise InputError(f"{args.table}: does not exist: give a table of {TABLES}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
