"""Text, JSON, YAML and CSV are read; errors of damaged files are one-line messages."""

from pathlib import Path

import jsonargparse
import pytest

from diffsight.errors import InputError
from diffsight.formats.text import (
    MAX_DEPTH,
    parse_csv,
    parse_json,
    parse_table,
    parse_yaml,
    read_json,
    read_object,
    read_text,
    reading,
)

DEEP = "[" * MAX_DEPTH + "]" * MAX_DEPTH
# nine aliases of nine aliases of ...: ten lines that expand to 9 ** 9 values
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
LOADERS = [None, jsonargparse.get_loader("yaml")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[" * 10_000, "nested too deeply"),
        ('{"a":' * 10_000, "nested too deeply"),
        (f"[{DEEP}]", "nested more than 100 deep"),
        ("7" * 5000, "contains an integer of 5000 digits"),
        ('{"a": [18446744073709551616]}', "an integer of 20 digits"),
    ],
)
def test_wrong_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse_json(text)
    assert type(error.value) is not RecursionError


def test_valid_json_is_read() -> None:
    text = '{"a": [1, -2, 18446744073709551615, 0.5, null, "x"], "b": {"a": 1e999}}'
    expected = {"a": [1, -2, 2**64 - 1, 0.5, None, "x"], "b": {"a": float("inf")}}
    assert parse_json(text) == expected
    assert parse_json(DEEP) is not None


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "expected the node content|while parsing"),
        ("[" * 10_000 + "]" * 10_000, "nest"),
        ("- " * 10_000, "nest"),
        (f"[{DEEP}]", "nested more than 100 deep"),
        ("a: &a [*a]", "nested more than 100 deep"),
        (BOMB, "its aliases make more than 100,000 values of it"),
        ("a: " + "7" * 5000, "5000 digits"),
        ("a: 0x" + "f" * 5000, "an integer of more than 64 bits"),
        ("a: !!python/object:os.system {}", "could not determine a constructor"),
        ("a: !!bool maybe", "maybe"),
        ("a: !!timestamp x", "NoneType"),
        ("a: !!binary \u00fc", "base64|ascii"),
        ("a: \x00", "special characters|control characters"),
        ("? [a]\n: 1", "unhashable"),
    ],
)
def test_wrong_yaml_is_refused(text: str, message: str, load) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse_yaml(text, load)
    assert "\n" not in str(error.value)


def test_valid_yaml_is_read() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: *x\nc: 1.5") == {"a": [1, 2], "b": [1, 2], "c": 1.5}
    assert parse_yaml("lr: 1e-3", LOADERS[1]) == {"lr": 0.001}


def test_csv_is_read_and_too_long_fields_are_refused() -> None:
    assert parse_csv("a,b\n1,2\n") == [{"a": "1", "b": "2"}]
    with pytest.raises(ValueError, match="field larger than field limit"):
        parse_csv("a\n" + "x" * 200_000)


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(2, "No such file"), UnicodeDecodeError("utf-8", b"\xfc", 0, 1, "bad")),
        *(KeyError("width"), IndexError("1"), TypeError("no"), AttributeError("no")),
        *(OverflowError("big"), ZeroDivisionError("0"), RecursionError("deep"), MemoryError()),
        ValueError("two\nlines " + "x" * 5000),
    ],
)
def test_every_error_of_a_damaged_file_becomes_one_line(error: Exception) -> None:
    with pytest.raises(InputError) as caught, reading("a.json", "damaged ({reason}): delete it"):
        raise error
    message = str(caught.value)
    assert message.startswith("a.json: damaged (")
    assert message.endswith("): delete it")
    assert "\n" not in message
    assert len(message) < 400


def test_input_errors_and_programming_errors_are_not_changed() -> None:
    with pytest.raises(InputError, match=r"^as it is$"), reading("a.json", "damaged"):
        raise InputError("as it is")
    with pytest.raises(AssertionError), reading("a.json", "damaged"):
        raise AssertionError


def test_files_are_decoded_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1]")
    assert read_json(path) == [1]
    with pytest.raises(ValueError, match="holds a list, not an object"):
        read_object(path)
    path.write_bytes(b"\xef\xbb\xbfwall\nchair")
    assert read_text(path) == "wall\nchair"
    path.write_bytes("K\u00fcche".encode("latin-1"))
    with pytest.raises(ValueError, match=r"^line 1 is not in UTF-8$"):
        read_text(path)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a,b\n1,2\n", [(1, ["a", "b"]), (2, ["1", "2"])]),
        ("\n a ; 1,5 \r\n\r\n;\nb;\n", [(2, ["a", "1,5"]), (5, ["b", ""])]),
        ('x\ty\n"a\tb"\t1', [(1, ["x", "y"]), (2, ["a\tb", "1"])]),
        ("sep=,\na;b,c", [(2, ["a;b", "c"])]),
        ("", []),
        ("word", [(1, ["word"])]),
    ],
)
def test_tables_of_spreadsheet_programs_are_read(
    text: str, rows: list[tuple[int, list[str]]]
) -> None:
    assert parse_table(text) == rows


def test_a_table_with_too_long_a_field_is_refused() -> None:
    with pytest.raises(ValueError, match="field larger than"):
        parse_table("a\n" + "x" * 200_000)
