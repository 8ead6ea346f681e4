"""Manifests in three formats, and the errors for wrong rows."""

import json
from pathlib import Path

import pytest

from diffsight.datasets.files import read_image
from diffsight.datasets.manifest import read_manifest
from diffsight.datasets.pairs import Pair
from diffsight.errors import InputError

ROWS = [
    {"image": "x/a.jpg", "label": "x/a.png", "encoding": "m/256", "prompt": "kitchen"},
    {"image": "b.jpg", "label": "b.npy"},
]


def test_csv_json_and_json_lines_give_the_same_samples(tmp_path: Path) -> None:
    csv, jsonl, whole = tmp_path / "m.csv", tmp_path / "m.jsonl", tmp_path / "m.JSON"
    csv.write_text(
        "image, label, encoding, prompt\nx/a.jpg, x/a.png, m/256, kitchen\nb.jpg, b.npy,,\n",
        encoding="utf-8-sig",
    )
    jsonl.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    whole.write_text(json.dumps(ROWS))
    expected = [
        Pair("x/a.jpg", tmp_path / "x/a.jpg", tmp_path / "x/a.png", "m/256", "kitchen"),
        Pair("b.jpg", tmp_path / "b.jpg", tmp_path / "b.npy", "cm", None),
    ]
    for path in (csv, jsonl, whole):
        assert read_manifest(path, "cm") == expected


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "lists no sample; add rows"),
        ({"image": "a"}, "must hold a list of objects"),
        (["a.jpg"], "row 1: must be an object with image and label"),
        ([{"image": "a", "label": "b"}, {"image": "c"}], "row 2: no label; give its path relative"),
        ([{"image": "a", "lable": "b"}], "row 1: unknown field 'lable': did you mean 'label'?"),
        ([{"image": "a", "label": "b", "zzz": "c"}], "unknown field 'zzz': choose from"),
        ([{"image": "a", "label": 3}], "row 1: label is 3; write it as text"),
        (
            [{"image": "a", "label": "b", "encoding": "inch"}],
            "row 1: unknown depth encoding 'inch'",
        ),
        ([{"image": "a", "label": "b"}] * 2, "image a is in row 1 and again in row 2; keep one"),
    ],
)
def test_wrong_rows_are_refused_with_their_number(
    tmp_path: Path, rows: object, message: str
) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(InputError, match=message) as error:
        read_manifest(path, "mm")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_unusable_manifests_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"image": ')
    with pytest.raises(InputError, match="not valid jsonl"):
        read_manifest(path, "mm")
    with pytest.raises(InputError, match="cannot be read"):
        read_manifest(tmp_path / "none.csv", "mm")
    (tmp_path / "m.txt").write_text("a b")
    with pytest.raises(InputError, match=r"a manifest is a \.csv, \.json or \.jsonl file"):
        read_manifest(tmp_path / "m.txt", "mm")
    (tmp_path / "m.csv").write_text("image,label\na.jpg,a.png,mm\n")
    with pytest.raises(InputError, match="row 1: unknown field None"):
        read_manifest(tmp_path / "m.csv", "mm")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.json", b"[" * 10_000, r"not valid json \(nested too deeply\)"),
        ("m.jsonl", b'{"image": ' + b"7" * 5000 + b"}", r"an integer of 5000 digits"),
        ("m.csv", b"image,label\n" + b"x" * 200_000, "field larger than field limit"),
        (
            "m.csv",
            "image,label\nK\u00fcche.png,a.png\n".encode("latin-1"),
            "line 2 is not in UTF-8",
        ),
    ],
)
def test_damaged_manifests_are_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path / name, "mm")


def test_a_null_byte_in_a_path_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read \(embedded null byte\)"):
        read_image(tmp_path / "a\0.png")
