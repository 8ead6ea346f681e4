"""Checks of ``--out`` leave nothing behind."""

from pathlib import Path

import pytest

from diffsight import cli
from diffsight.cli import options
from diffsight.errors import InputError


def test_a_check_of_the_output_creates_nothing(tmp_path: Path) -> None:
    options.require_writable(tmp_path / "a" / "b")
    options.require_writable(tmp_path / "c.png", is_file=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file/out", "x" * 300, "link/out"])
def test_an_output_that_cannot_be_made_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match=r"cannot be written .*: choose another --out"):
        options.require_writable(tmp_path / name)


def test_a_captioner_that_cannot_be_loaded_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.support_cli import photo

    image, out = photo(tmp_path / "a.png"), tmp_path / "new" / "captions.json"
    wrong = ["--captioner", str(tmp_path / "none"), "--device", "cpu"]
    assert cli.main(["caption", "--images", str(image), "--out", str(out), *wrong]) == 2
    assert "none" in capsys.readouterr().err
    assert not out.parent.exists()
