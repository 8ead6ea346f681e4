"""Class lists in every format and text encoding."""

from pathlib import Path

import pytest

from diffsight.datasets.class_lists import read_class_list, read_names
from diffsight.datasets.files import read_json, read_text
from diffsight.errors import InputError

NAMES = {0: "grün", 1: "house"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_names_are_read_in_every_encoding(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes("grün\r\nhouse\r\n".encode(encoding))
    assert read_class_list(path).names == NAMES
    assert read_text(path) == "grün\nhouse\n"


@pytest.mark.parametrize(
    ("text", "keys", "names"),
    [
        ("grün\nhouse\n", "position", NAMES),
        ("1, house\n0, grün\n", "id", NAMES),
        ("Pixel Value, Class\n0, grün\n1, house", "id", NAMES),
        ("7: a: b\n9: c\n", "id", {7: "a: b", 9: "c"}),
        ("# title\na b:1,2,3::\nc:0,0,0::\n", "colour", {0: "c", 0x010203: "a b"}),
        ("name,r,g,b\na b, 1, 2, 3\nc,0,0,0\n", "colour", {0: "c", 0x010203: "a b"}),
        ("a, large\nb\n", "position", {0: "a, large", 1: "b"}),
    ],
)
def test_every_format_of_class_lists_is_read(
    text: str, keys: str, names: dict[int, str], tmp_path: Path
) -> None:
    path = tmp_path / "names.txt"
    path.write_text(text, encoding="utf-8")
    classes = read_class_list(path)
    assert (classes.keys, classes.names) == (keys, names)


def test_control_characters_and_empty_lines_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\x1b[31mred\x07\nhouse\n\n\nlast\n")
    assert read_names(path) == ["[31mred", "house", "last"]


def test_bad_class_lists_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    for data, message in (
        (b"a\ngr\xfcn\n", r"\(line 2 is not in UTF-8\); save it in UTF-8"),
        ("a\n".encode("utf-16-le"), "it contains null characters"),
        (b"\n", "contains no name"),
        (b"a\n\nb\n", "line 2 is empty: write one name per id"),
        (b"1, a\n1, b\n", "two classes have the same id"),
        (b"a,1,2,300\nb,0,0,0\n", "write its colour as three numbers from 0 to 255"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=message):
            read_class_list(path)
    path.write_text("[" * 100_000)
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_json(path)
