"""Read manifests: lists of images and labels in CSV, JSON or JSON lines, one sample per row."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffsight.datasets.depth import check_encoding
from diffsight.datasets.files import read_text
from diffsight.datasets.pairs import Pair
from diffsight.errors import InputError, suggest
from diffsight.formats.text import parse_csv, parse_json, reading

_KEYS = ("image", "label", "encoding", "prompt")


def read_manifest(path: Path, unit: str) -> list[Pair]:
    """Return the samples of a manifest in the order of its rows.

    A row has ``image`` and ``label``, which are paths relative to the manifest's folder. It may
    also have ``prompt``, and ``encoding``, which replaces ``unit``.

    Args:
        path: ``.csv`` with a header, ``.jsonl`` with one object per line, or ``.json`` with a list.
        unit: depth encoding of rows that do not name one (see ``read_depth``).

    Raises:
        InputError: if the file or a row cannot be used; the message names file, row and repair.
    """
    pairs = [_pair(path, number, row, unit) for number, row in _rows(path)]
    if not pairs:
        raise InputError(f"{path}: lists no sample; add rows with an image and a label")
    first: dict[str, int] = {}
    for number, pair in enumerate(pairs, start=1):
        if first.setdefault(pair.id, number) != number:
            raise InputError(
                f"{path}: image {pair.id} is in row {first[pair.id]} and again in row {number}; "
                "keep one"
            )
    return pairs


def _rows(path: Path) -> list[tuple[int, Any]]:
    """Return the rows with their numbers, counted from 1 without the header of a CSV."""
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".json", ".jsonl"):
        raise InputError(f"{path}: a manifest is a .csv, .json or .jsonl file; rename it")
    text = read_text(path, "a manifest")
    with reading(path, f"not valid {suffix[1:]} ({{reason}}); correct it"):
        if suffix == ".csv":
            rows: list[Any] = [*parse_csv(text)]
        elif suffix == ".jsonl":
            rows = [parse_json(line) for line in text.splitlines() if line.strip()]
        else:
            rows = parse_json(text)
    if not isinstance(rows, list):
        raise InputError(f"{path}: must hold a list of objects with image and label")
    return list(enumerate(rows, start=1))


def _pair(path: Path, number: int, row: Any, unit: str) -> Pair:
    """Return the image and depth file of a row of a manifest.

    Args:
        path: path of the manifest.
        number: number of the row, for messages.
        row: fields of the row by name.
        unit: depth encoding if the row does not name one.

    Raises:
        InputError: if a field is missing, unknown or not valid.
    """
    location = f"{path}, row {number}"
    if not isinstance(row, Mapping):
        raise InputError(f"{location}: must be an object with image and label")
    # DictReader stores surplus fields under the key None and missing ones as the value None
    for key in row:
        if key not in _KEYS:
            raise InputError(f"{location}: unknown field {key!r}: {suggest(str(key), _KEYS)}")
    fields = {key: value for key, value in row.items() if value not in (None, "")}
    for key in ("image", "label"):
        if key not in fields:
            raise InputError(f"{location}: no {key}; give its path relative to {path.parent}")
    for key, value in fields.items():
        if not isinstance(value, str):
            raise InputError(f"{location}: {key} is {value!r}; write it as text")
    encoding = fields.get("encoding", unit)
    try:
        check_encoding(encoding)
    except InputError as error:
        raise InputError(f"{location}: {error}") from error
    folder = path.parent
    return Pair(
        Path(fields["image"]).as_posix(),
        folder / fields["image"],
        folder / fields["label"],
        encoding,
        fields.get("prompt"),
    )
