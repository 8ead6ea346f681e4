"""Lists of samples that a user writes: CSV, JSON or JSON lines, an image and a label per row."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffsight.datasets.depth import check_encoding
from diffsight.datasets.files import read_text
from diffsight.datasets.pairs import Pair
from diffsight.errors import InputError
from diffsight.formats.text import parse_csv, parse_json, reading

_KEYS = ("image", "label", "encoding", "prompt")


def read_manifest(path: Path, unit: str) -> list[Pair]:
    """Return the samples of a manifest, in its order.

    A row has ``image`` and ``label`` (paths relative to the manifest's folder), and may have
    ``encoding`` (otherwise ``unit``) and ``prompt``.

    Args:
        path: ``.csv`` with a header, ``.jsonl`` with one object per line, or ``.json`` with a list.
        unit: encoding of the rows that name none, as ``read_depth`` takes it.

    Raises:
        InputError: naming file, row and repair.
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
    """Return rows with their numbers, the header of a CSV not counted."""
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
    where = f"{path}, row {number}"
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: must be an object with image and label")
    # csv gives surplus fields the key None, and missing ones the value None
    for key in row:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"a row has {', '.join(_KEYS)}"
            raise InputError(f"{where}: unknown field {key!r}; {hint}")
    given = {key: value for key, value in row.items() if value not in (None, "")}
    for key in ("image", "label"):
        if key not in given:
            raise InputError(f"{where}: no {key}; give its path relative to {path.parent}")
    for key, value in given.items():
        if not isinstance(value, str):
            raise InputError(f"{where}: {key} is {value!r}; write it as text")
    encoding = given.get("encoding", unit)
    try:
        check_encoding(encoding)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    folder = path.parent
    return Pair(
        Path(given["image"]).as_posix(),
        folder / given["image"],
        folder / given["label"],
        encoding,
        given.get("prompt"),
    )
