"""Text, JSON, YAML and CSV become plain data. This module imports nothing heavy.

Whatever a damaged file makes a decoder raise becomes a ``ValueError`` with the reason, and inside
``reading`` one line for the user.
"""

import codecs
import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffsight.errors import InputError

MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
MAX_DEPTH = 100  # of lists and mappings in each other
BEYOND = 2**64  # of integers
MAX_VALUES = 100_000  # of a YAML file; its aliases can name 9 ** 9 values in ten lines
LONGEST_REASON = 300
_SEPARATOR = re.compile(r'"?sep=([,;\t])"?', re.IGNORECASE)
# what Python raises where a file holds other types, keys, numbers or bytes than are expected
DAMAGE = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(RecursionError, MemoryError),
)


@contextmanager
def reading(path: Path | str, line: str) -> Iterator[None]:
    """Return a context in which a file is read or its contents are taken apart, and nothing else.

    Args:
        path: of the file.
        line: what is wrong then, and the repair; ``{reason}`` in it becomes that of the error.

    Raises:
        InputError: ``PATH: LINE``, for every error that a damaged file can cause.
    """
    try:
        yield
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(f"{path}: {line.replace('{reason}', reason_of(error))}") from None


def reason_of(error: BaseException) -> str:
    """Return the message of an error on one line, not too long."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, MemoryError):
        return "not enough memory"
    reason = " ".join(str(error).split()).partition("; use sys.set_int_max_str_digits")[0]
    if len(reason) > LONGEST_REASON:
        reason = f"{reason[:LONGEST_REASON]} ..."
    return reason or type(error).__name__


def read_text(path: Path) -> str:
    """Return the contents of a text file.

    Raises:
        OSError: if it cannot be read.
        ValueError: as ``decode_text``.
    """
    return decode_text(path.read_bytes())


def decode_text(data: bytes) -> str:
    """Return bytes as text: UTF-8, UTF-16 or UTF-32; a byte-order mark is removed.

    Raises:
        ValueError: if they are in another encoding.
    """
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8-sig")
    try:
        text = io.TextIOWrapper(io.BytesIO(data), encoding=encoding).read()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not in {encoding[:-4].upper()}") from None
    if "\0" in text:
        raise ValueError("it holds zeros")
    return text


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file.

    Raises:
        OSError: if it cannot be read.
        ValueError: as ``parse_json``.
    """
    return parse_json(read_text(path))


def parse_json(text: str) -> Any:
    """Return plain data. NaN and infinity are numbers, as Python writes them.

    Raises:
        ValueError: if it is no JSON, has an integer of too many digits, or is nested too deeply.
    """
    try:
        value = json.loads(text, parse_int=_integer)
    except RecursionError as error:
        raise ValueError(reason_of(error)) from None
    if excess := _excess(value, None):
        raise ValueError(excess)
    return value


def read_object(path: Path) -> dict[str, Any]:
    """Return the contents of a JSON file that holds an object.

    Raises:
        OSError: if it cannot be read.
        ValueError: as ``parse_json``, and if it holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"holds a {type(value).__name__}, not an object")
    return value


def parse_csv(text: str) -> list[dict[str, str]]:
    """Return the rows of a CSV table by its header; of a longer row the rest has the key None.

    Raises:
        ValueError: if it is none.
    """
    try:
        return list(csv.DictReader(text.splitlines(), skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(str(error)) from None


def parse_table(text: str) -> list[tuple[int, list[str]]]:
    """Return the lines of a table as spreadsheet programs write it: number and stripped fields.

    Commas, semicolons or tabs separate the fields; the first line that is not empty decides. Empty
    lines and the line ``sep=;`` are left out.

    Raises:
        ValueError: if it is none.
    """
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    declared = _SEPARATOR.fullmatch(first.strip())
    counts = {sign: first.count(sign) for sign in ("\t", ";", ",")}
    separator = declared[1] if declared else max(counts, key=lambda sign: counts[sign])
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    rows = []
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                rows.append((reader.line_num, [field.strip() for field in fields]))
    except csv.Error as error:
        raise ValueError(str(error)) from None
    return rows[1:] if declared else rows


def parse_yaml(text: str, load: Callable[[str], Any] | None = None) -> Any:
    """Return plain data.

    Args:
        text: YAML.
        load: what reads it; default: ``yaml.safe_load``.

    Raises:
        ValueError: if it is no YAML, is nested too deeply, or its aliases make it too large.
    """
    import yaml

    try:
        value = (load or yaml.safe_load)(text)
    except Exception as error:  # its constructors raise nearly anything on odd scalars
        raise ValueError(reason_of(error)) from None
    if excess := _excess(value, MAX_VALUES):
        raise ValueError(excess)
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) >= BEYOND:
        raise ValueError(f"an integer of {len(text)} digits")
    return value


def _excess(value: Any, most_values: int | None) -> str:
    """Return in which way data would exhaust whoever walks through it; empty if it would not."""
    level, count = [value], 0
    for _ in range(MAX_DEPTH + 1):
        level = [one for one in level if isinstance(one, dict | list)]
        if not level:
            return ""
        children = itertools.chain.from_iterable(
            one.values() if isinstance(one, dict) else one for one in level
        )
        if most_values is None:  # JSON, whose values are as many as it has bytes
            level = [child for child in children if isinstance(child, dict | list)]
            continue
        level = list(itertools.islice(children, most_values - count + 1))
        count += len(level)
        if count > most_values:
            return f"its aliases make more than {most_values:,} values of it"
        if any(isinstance(child, int) and abs(child) >= BEYOND for child in level):
            return "an integer of more than 64 bits"
    return f"lists and mappings are nested more than {MAX_DEPTH} deep"
