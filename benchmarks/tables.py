"""Store the results of an experiment in one CSV table, with a row for each unit.

A unit is one training with its scores. Scripts write every finished unit as a JSON file into a
working folder outside of git, such as ``runs/few_shot``. ``pack`` adds the units of such a folder
to the table of the experiment. ``unpack`` writes the rows of a table as unit files, so that a
script reads them instead of running them again. A table has no scores of single images; it only
names the images that were scored.

Columns: ``unit`` is the path of the unit's file without ``.json``. Values of nested dictionaries
have columns of their own (``measures/miou``). ``settings/...`` come from the ``settings.json`` in
the unit's folder. ``train/3-5,9`` stands for the images 3, 4, 5 and 9 of the split ``train``.

    python benchmarks/tables.py unpack benchmarks/tables/few_shot_tasks.csv runs/few_shot/tasks
    python benchmarks/tables.py pack runs/few_shot/tasks benchmarks/tables/few_shot_tasks.csv
"""

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from reporting import write_json, write_text

from diffsight.errors import InputError
from diffsight.formats.text import reading

TABLES = Path(__file__).parent / "tables"
SETTINGS = "settings.json"
NOT_UNITS = (SETTINGS, "report.json")
MAX_IMAGES = 100_000  # per unit
MAX_NAME_LENGTH = 200  # characters of the name of a folder or file
Units = dict[str, dict[str, Any]]  # contents of units, by path of the file without .json


def pack(folder: Path, table: Path) -> None:
    """Add the units of a folder to a table; they replace units of the table with the same name.

    Raises:
        InputError: if a unit's file is damaged or its images are not named SPLIT/NUMBER.
    """
    units = read(table) | read_folder(folder)
    if not units:
        raise InputError(f"{folder}: has no units: give the folder that a benchmark wrote")
    rows = {name: _flatten(units[name]) for name in sorted(units)}
    text = io.StringIO()
    writer = csv.DictWriter(text, ["unit", *_columns(list(rows.values()))], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"unit": name} | row for name, row in rows.items())
    table.parent.mkdir(parents=True, exist_ok=True)
    write_text(table, text.getvalue())


def unpack(table: Path, folder: Path) -> None:
    """Write the rows of a table as unit files; existing files are not changed.

    Raises:
        InputError: if a file in the folder differs from the table.
    """
    existing = read_folder(folder)
    for name, unit in read(table).items():
        path = folder / f"{name}.json"
        if name not in existing:
            settings = unit.pop("settings", None)
            path.parent.mkdir(parents=True, exist_ok=True)
            if settings is not None:
                _write_settings(path.with_name(SETTINGS), settings, table)
            write_json(path, unit)
        elif _flatten(existing[name]) != _flatten(unit):
            raise InputError(
                f"{path}: differs from its row in {table}: delete the file to use the row, or the "
                "row to use the file"
            )


def read(table: Path) -> Units:
    """Return the units of a table by name; if the file does not exist, there are none.

    The scores of single images are None, because a table does not contain them.

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


def weights_of(units: Iterable[dict[str, Any]]) -> str:
    """Return the first digits of the hash of the embedded model that all units were measured with.

    Raises:
        InputError: if the units have different weights, or do not record them.
    """
    weights = {unit.get("settings", {}).get("weights") for unit in units}
    if len(weights) != 1 or None in weights:
        raise InputError(
            "units that are compared have different weights, or do not record them: measure them "
            "again"
        )
    return str(weights.pop())[:12]


def _checked_name(name: str) -> str:
    """Return the name of a unit if its path stays inside of the folder; raise an error if not."""
    parts = name.split("/")
    if not all(0 < len(part) <= MAX_NAME_LENGTH and part.isprintable() for part in parts):
        raise ValueError(f"{name[:MAX_NAME_LENGTH]!r} is not the path of a unit")
    if {".", ".."} & {*parts}:
        raise ValueError(f"the unit {name!r} lies outside of the folder")
    return name


def read_folder(folder: Path) -> Units:
    """Return the units of a folder by name, each with the settings of its own folder."""
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
        raise InputError(f"{path}: damaged: delete it to run the unit again") from None


def _write_settings(path: Path, settings: dict[str, Any], table: Path) -> None:
    if not path.exists():
        write_json(path, settings)
    elif _load(path) != settings:
        raise InputError(f"{path}: differs from the settings in {table}: give another folder")


def _columns(rows: Sequence[dict[str, str]]) -> list[str]:
    """Return the columns of all rows, in an order that agrees with the order in each row."""
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
    """Return the unit of a row; the inverse of ``_flatten``."""
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
    """Return a value as JSON; a text is not quoted unless it would be read as JSON."""
    if isinstance(value, str) and value and _from_cell(value) is value:
        return value
    return json.dumps(value)


def _from_cell(cell: str) -> Any:
    try:
        return json.loads(cell)
    except ValueError:
        return cell


def _to_ranges(names: Sequence[str]) -> str:
    """Return the names of images in short form: ``train/3-4,9`` for images 3, 4 and 9."""
    runs: list[list[int]] = []
    split = names[0].rpartition("/")[0] if names else ""
    for number in (name.rpartition("/")[2] for name in names):
        if not number.isdecimal():
            raise InputError(f"image {number!r}: names in a table have the form train/12")
        if runs and int(number) == runs[-1][1] + 1:
            runs[-1][1] += 1
        else:
            runs.append([int(number)] * 2)
    text = f"{split}/" + ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
    if _from_ranges(text) != list(names):
        raise InputError(f"images {names[0]}, ...: all images of a unit must be from one split")
    return text


def _from_ranges(text: str) -> list[str]:
    """Return the full names of images; the inverse of ``_to_ranges``."""
    split, _, runs = text.rpartition("/")
    names = []
    for run in runs.split(","):
        first, _, last = run.partition("-")
        numbers = range(int(first), int(last or first) + 1)
        if len(names) + len(numbers) > MAX_IMAGES:
            raise ValueError(f"more than {MAX_IMAGES:,} images")
        names += [f"{split}/{number}" for number in numbers]
    return names


def main() -> None:
    """Run ``pack`` or ``unpack``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    pack_parser = commands.add_parser("pack", help="add the units of a folder to a table")
    pack_parser.add_argument("folder", type=Path, help="working folder with unit files")
    pack_parser.add_argument("table", type=Path, help="CSV file")
    unpack_parser = commands.add_parser("unpack", help="write the rows of a table as unit files")
    unpack_parser.add_argument("table", type=Path, help="CSV file")
    unpack_parser.add_argument("folder", type=Path, help="working folder with unit files")
    args = parser.parse_args()
    if args.command == "pack":
        pack(args.folder, args.table)
    elif args.table.exists():
        unpack(args.table, args.folder)
    else:
        raise InputError(f"{args.table}: does not exist: give a table from {TABLES}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
