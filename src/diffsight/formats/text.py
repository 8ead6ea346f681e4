"""Read text, JSON, YAML and CSV as plain data. This module imports no large package.

Every error that a damaged file causes becomes a ``ValueError`` with the reason. Inside ``reading``
it becomes an ``InputError`` of one line for the user.
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

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
MAX_DEPTH = 100  # of nested lists and mappings
INTEGER_LIMIT = 2**64  # absolute values of integers must be smaller
MAX_VALUES = 100_000  # in a YAML file, whose aliases can make 9 ** 9 values in ten lines
MAX_REASON_LENGTH = 300  # characters of an error's message
_SEPARATOR = re.compile(r'"?sep=([,;\t])"?', re.IGNORECASE)
# errors that Python raises if a file has other types, keys, numbers or bytes than expected
DAMAGE_ERRORS = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(RecursionError, MemoryError),
)


@contextmanager
def reading(path: Path | str, message: str) -> Iterator[None]:
    """Return a context for reading and parsing a file, in which its errors become ``InputError``.

    Use it around nothing else, because it also hides programming errors of the same types.

    Args:
        path: path of the file.
        message: text of the error for a damaged file, with the repair; ``{reason}`` in it is
            replaced by the message of the original error.

    Raises:
        InputError: for every error that a damaged file can cause: ``PATH: MESSAGE``.
    """
    try:
        yield
    except InputError:
        raise
    except DAMAGE_ERRORS as error:
        raise InputError(f"{path}: {message.replace('{reason}', reason_of(error))}") from None


def reason_of(error: BaseException) -> str:
    """Return the message of an error on one line of limited length."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, MemoryError):
        return "not enough memory"
    reason = " ".join(str(error).split()).partition("; use sys.set_int_max_str_digits")[0]
    if len(reason) > MAX_REASON_LENGTH:
        reason = f"{reason[:MAX_REASON_LENGTH]} ..."
    return reason or type(error).__name__


def read_text(path: Path) -> str:
    """Return the contents of a text file.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the file is not in UTF-8, UTF-16 or UTF-32 (see ``decode_text``).
    """
    return decode_text(path.read_bytes())


def decode_text(data: bytes) -> str:
    """Return bytes as text: UTF-8, UTF-16 or UTF-32; a byte-order mark is removed.

    Raises:
        ValueError: if the bytes are in another encoding or contain null characters.
    """
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8-sig")
    try:
        text = io.TextIOWrapper(io.BytesIO(data), encoding=encoding).read()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not in {encoding[:-4].upper()}") from None
    if "\0" in text:
        raise ValueError("it contains null characters")
    return text


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file as plain data.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the file is not valid JSON (see ``parse_json``).
    """
    return parse_json(read_text(path))


def parse_json(text: str) -> Any:
    """Return the plain data of a JSON text. It may contain NaN and Infinity, as Python writes them.

    Raises:
        ValueError: if the text is not JSON, has an integer with too many digits, or is nested too
            deeply.
    """
    try:
        value = json.loads(text, parse_int=_parse_integer)
    except RecursionError as error:
        raise ValueError(reason_of(error)) from None
    if excess := _find_excess(value, None):
        raise ValueError(excess)
    return value


def read_object(path: Path) -> dict[str, Any]:
    """Return the contents of a JSON file that holds an object.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the file is not valid JSON (see ``parse_json``), or holds no object.
    """
    return parse_object(read_text(path))


def parse_object(text: str) -> dict[str, Any]:
    """Return the plain data of a JSON text that holds an object.

    Raises:
        ValueError: if the text is not valid JSON (see ``parse_json``), or holds no object.
    """
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, not an object")
    return value


def parse_csv(text: str) -> list[dict[str, str]]:
    """Return the rows of a CSV table as mappings from the header to the fields.

    Surplus fields of a row are a list under the key None; missing fields have the value None.

    Raises:
        ValueError: if the text is not CSV.
    """
    try:
        return list(csv.DictReader(text.splitlines(), skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(str(error)) from None


def parse_table(text: str) -> list[tuple[int, list[str]]]:
    """Return line number and stripped fields of each row of a table from a spreadsheet program.

    Commas, semicolons or tabs separate the fields. The first line that is not empty determines
    which of them. Empty lines and a first line such as ``sep=;`` are left out.

    Raises:
        ValueError: if the text is not a table.
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
    """Return the plain data of a YAML text.

    Args:
        text: YAML text.
        load: function that parses it; default: ``yaml.safe_load``.

    Raises:
        ValueError: if the text is not YAML, is nested too deeply, or its aliases make it too large.
    """
    import yaml

    try:
        value = (load or yaml.safe_load)(text)
    except Exception as error:  # odd scalars raise errors of nearly any type
        raise ValueError(reason_of(error)) from None
    if excess := _find_excess(value, MAX_VALUES):
        raise ValueError(excess)
    return value


def _parse_integer(text: str) -> int:
    """Return an integer of JSON, or raise an error if it has more than 64 bits."""
    if len(text) > 20 or abs(value := int(text)) >= INTEGER_LIMIT:
        raise ValueError(f"it contains an integer of {len(text)} digits, too large for 64 bits")
    return value


def _find_excess(value: Any, max_values: int | None) -> str:
    """Return why plain data is too large to process; an empty text if it is not.

    Args:
        value: plain data.
        max_values: largest number of values; None: no limit.
    """
    level, count = [value], 0
    for _ in range(MAX_DEPTH + 1):
        level = [one for one in level if isinstance(one, dict | list)]
        if not level:
            return ""
        children = itertools.chain.from_iterable(
            one.values() if isinstance(one, dict) else one for one in level
        )
        if max_values is None:  # JSON has at most as many values as bytes
            level = [child for child in children if isinstance(child, dict | list)]
            continue
        level = list(itertools.islice(children, max_values - count + 1))
        count += len(level)
        if count > max_values:
            return f"its aliases make more than {max_values:,} values of it"
        if any(isinstance(child, int) and abs(child) >= INTEGER_LIMIT for child in level):
            return "it contains an integer of more than 64 bits"
    return f"lists and mappings are nested more than {MAX_DEPTH} deep"
