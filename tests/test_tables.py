"""benchmarks/tables.py packs result files into a table and unpacks them again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support_benchmarks import BENCHMARKS, TABLES

UNIT = {"task": "a/b", "key": "12", "score": 0.1, "per_image": {"test/0": 0.2, "test/1": 0.3}}
UNIT |= {
    "training_images": ["train/7", "train/3", "train/4"],
    "facts": {},
    "measures": {"x.5": 1e-9},
}


def tables(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCHMARKS / "tables.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("table", sorted(TABLES.glob("*.csv")), ids=lambda path: path.stem)
def test_unpacking_and_packing_a_table_gives_the_same_bytes(table: Path, tmp_path: Path) -> None:
    assert tables("unpack", table, tmp_path / "units").returncode == 0
    assert tables("pack", tmp_path / "units", tmp_path / "again.csv").returncode == 0
    assert (tmp_path / "again.csv").read_bytes() == table.read_bytes()


def test_a_table_keeps_everything_except_the_scores_of_single_images(tmp_path: Path) -> None:
    path = tmp_path / "units" / "b" / "rep000.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(UNIT))
    assert tables("pack", tmp_path / "units", tmp_path / "t.csv").returncode == 0
    assert tables("unpack", tmp_path / "t.csv", tmp_path / "again").returncode == 0
    again = json.loads((tmp_path / "again" / "b" / "rep000.json").read_text())
    assert again == UNIT | {"per_image": {"test/0": None, "test/1": None}}


def test_columns_keep_their_order_when_units_have_different_keys(tmp_path: Path) -> None:
    for number, steps in enumerate(({"vpd": 1}, {"few_shot": 2, "vpd": 1}, {})):
        path = tmp_path / "units" / f"rep{number:03d}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(UNIT | {"facts": {"steps": steps}}))
    assert tables("pack", tmp_path / "units", tmp_path / "t.csv").returncode == 0
    assert tables("unpack", tmp_path / "t.csv", tmp_path / "again").returncode == 0
    assert tables("pack", tmp_path / "again", tmp_path / "again.csv").returncode == 0
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "t.csv").read_bytes()


def test_unpacking_does_not_overwrite_a_unit_file_that_differs(tmp_path: Path) -> None:
    path = tmp_path / "units" / "rep000.json"
    path.parent.mkdir()
    path.write_text(json.dumps(UNIT))
    assert tables("pack", path.parent, tmp_path / "t.csv").returncode == 0
    path.write_text(json.dumps(UNIT | {"score": 0.2}))
    done = tables("unpack", tmp_path / "t.csv", path.parent)
    assert done.returncode != 0
    assert done.stderr.startswith(f"error: {path}: differs from its row")
    assert json.loads(path.read_text())["score"] == 0.2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace(b"unit", b"u"), "'unit'"),
        (lambda text: text + b"\xff\n", "decode"),
        (lambda text: text + b"x" * 200_000, "field larger than field limit"),
        (lambda text: text.replace(b"3-4", b"3-x"), "invalid literal"),
        (lambda text: text.replace(b"3-4", b"3-99999999999"), "more than 100,000 images"),
        (lambda text: text.replace(b"b/rep000", b"../../rep000"), "lies outside of the folder"),
        (lambda text: text.replace(b"b/rep000", b"/tmp/rep000"), "is not the path of a unit"),
        (lambda text: text.replace(b"b/rep000", b"7" * 5000), "is not the path of a unit"),
    ],
)
def test_a_damaged_table_is_refused_with_one_line_and_nothing_is_written(
    change, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "units" / "b" / "rep000.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(UNIT))
    table = tmp_path / "t.csv"
    assert tables("pack", tmp_path / "units", table).returncode == 0
    changed = change(table.read_bytes())
    assert changed != table.read_bytes()
    table.write_bytes(changed)
    done = tables("unpack", table, tmp_path / "out" / "again")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {table}: damaged (")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
