"""Packaged models are found, and files that are damaged or missing are reported."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from diffsight import assets
from diffsight.errors import InputError

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def test_find_returns_the_folder_of_a_model(embedded: Path) -> None:
    assert assets.find("tiny") == embedded


def test_checksums_list_all_files_and_pass_sha256sum(embedded: Path) -> None:
    tool = shutil.which("sha256sum") or shutil.which("gsha256sum")
    if tool:  # not on every system
        subprocess.run([tool, "--check", "--strict", "SHA256SUMS"], cwd=embedded, check=True)
    listed = {line.split("  ")[1] for line in (embedded / "SHA256SUMS").read_text().splitlines()}
    present = {p.relative_to(embedded).as_posix() for p in embedded.rglob("*") if p.is_file()}
    assert listed == present - {"SHA256SUMS"}
    assert "text_encoder/config.json" in listed


def test_checksums_leave_out_hidden_files(embedded: Path) -> None:
    before = (embedded / "SHA256SUMS").read_bytes()
    (embedded / "unet" / ".DS_Store").write_text("")
    assets.write_checksums(embedded)
    assert (embedded / "SHA256SUMS").read_bytes() == before
    assert not list(embedded.glob(".*"))


def test_files_are_checked_once_per_process(embedded: Path) -> None:
    assets.find("tiny")
    (embedded / WEIGHTS).unlink()
    begin = time.perf_counter()
    assert assets.find("tiny") == embedded
    assert time.perf_counter() - begin < 0.01


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def change(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, change, Path.unlink])
@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer/merges.txt"])
def test_a_damaged_file_is_named_in_the_error(embedded: Path, name: str, damage) -> None:
    damage(embedded / name)
    with pytest.raises(InputError) as caught:
        assets.find("tiny")
    message = str(caught.value)
    assert message.startswith(f"{embedded / name}: ")
    assert "reinstall the package" in message
    assert "\n" not in message


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("")])
def test_missing_or_empty_checksums_are_an_error(embedded: Path, damage) -> None:
    damage(embedded / "SHA256SUMS")
    with pytest.raises(InputError, match=r"SHA256SUMS: missing or empty.*reinstall the package"):
        assets.find("tiny")


def test_checksums_with_an_impossible_file_name_are_an_error(embedded: Path) -> None:
    with (embedded / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  {'7' * 5000}\n")
    with pytest.raises(InputError, match=r"SHA256SUMS: damaged .*name too long.*reinstall"):
        assets.find("tiny")


def test_a_package_without_the_model_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "FOLDER", tmp_path)
    with pytest.raises(InputError, match=r"no embedded model: make one with `diffsight pretrain"):
        assets.find("tiny")


def test_an_unknown_name_suggests_the_nearest_one() -> None:
    with pytest.raises(InputError, match=r"no model 'tinny' .* did you mean 'tiny'"):
        assets.find("tinny")
