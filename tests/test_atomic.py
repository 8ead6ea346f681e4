"""Files are replaced as a whole; temporary names are random, and leftovers are deleted."""

import os
from pathlib import Path

import pytest

from diffsight.atomic import remove_leftovers, remove_leftovers_of, replacing, staging
from diffsight.errors import InputError


def test_a_temporary_file_is_new_and_has_a_random_name(tmp_path: Path) -> None:
    names = set()
    for _ in range(3):
        with replacing(tmp_path / "a.json") as partial:
            assert partial.read_bytes() == b""
            names.add(partial.name)
            partial.write_text("whole")
    assert len(names) == 3
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_planted_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    treasure = tmp_path / "treasure"
    treasure.write_text("precious")
    # as if an attacker had guessed the name
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 16)
    (tmp_path / f".a.json.{'0' * 16}.partial").symlink_to(treasure)
    with (
        pytest.raises(InputError, match=r"a\.json: cannot be written"),
        replacing(tmp_path / "a.json") as partial,
    ):
        partial.write_text("torn")
    with pytest.raises(FileExistsError), staging(tmp_path / "a.json"):
        pass
    assert treasure.read_text() == "precious"


def test_long_names_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250)
    with replacing(path) as partial:
        partial.write_text("whole")
    assert path.read_text() == "whole"


def test_a_folder_is_moved_or_deleted(tmp_path: Path) -> None:
    with staging(tmp_path / "model") as scratch:
        (scratch / "half").touch()
    assert not os.listdir(tmp_path)
    with staging(tmp_path / "model") as scratch:
        (scratch / "whole").touch()
        scratch.rename(tmp_path / "model")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "whole"]


def write_leftovers(path: Path) -> None:
    """Leave the temporary file and folder that a killed process leaves."""
    for context in (replacing, staging):
        manager = context(path)
        left = manager.__enter__()
        if context is staging:
            (left / "half").touch()
        # keep the context open, because leaving it would delete the file
        kept.append(manager)


kept: list[object] = []


def test_only_leftovers_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in (".hidden", "last.ckpt", ".mine.partial", "x.0123456789abcdef.partial"):
        (tmp_path / "deep" / name).touch()
    others = sorted(os.listdir(tmp_path / "deep"))
    write_leftovers(tmp_path / "deep" / "last.ckpt")
    write_leftovers(tmp_path / "metrics.csv")
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["deep"]
    assert sorted(os.listdir(tmp_path / "deep")) == others


def test_leftovers_of_one_name_are_deleted_and_those_of_others_stay(tmp_path: Path) -> None:
    write_leftovers(tmp_path / "mine")
    write_leftovers(tmp_path / "other")
    (tmp_path / "mine").mkdir()
    write_leftovers(tmp_path / "mine" / "config.json")
    remove_leftovers_of(tmp_path / "mine")
    assert not list((tmp_path / "mine").iterdir())
    names = sorted(os.listdir(tmp_path))
    assert len(names) == 3
    assert names[-1] == "mine"
    assert all(name.startswith(".other.") for name in names[:2])
