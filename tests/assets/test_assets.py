"""Only whole files, exactly as they were shipped, are used."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from diffsight import assets
from diffsight.errors import InputError

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def test_the_folder_is_found(embedded: Path) -> None:
    assert assets.find("tiny") == embedded


def test_checksums_are_what_sha256sum_reads(embedded: Path) -> None:
    tool = shutil.which("sha256sum") or shutil.which("gsha256sum")
    if tool:  # not on every system
        subprocess.run([tool, "--check", "--strict", "SHA256SUMS"], cwd=embedded, check=True)
    listed = {line.split("  ")[1] for line in (embedded / "SHA256SUMS").read_text().splitlines()}
    present = {p.relative_to(embedded).as_posix() for p in embedded.rglob("*") if p.is_file()}
    assert listed == present - {"SHA256SUMS"}
    assert "text_encoder/config.json" in listed


def test_writing_again_changes_nothing_and_leaves_out_what_is_hidden(embedded: Path) -> None:
    before = (embedded / "SHA256SUMS").read_bytes()
    (embedded / "unet" / ".DS_Store").write_text("")
    assets.write_checksums(embedded)
    assert (embedded / "SHA256SUMS").read_bytes() == before
    assert not list(embedded.glob(".*"))


def test_every_file_is_read_once_per_process(embedded: Path) -> None:
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
def test_damaged_files_are_named(embedded: Path, name: str, damage) -> None:
    damage(embedded / name)
    with pytest.raises(InputError) as caught:
        assets.find("tiny")
    message = str(caught.value)
    assert message.startswith(f"{embedded / name}: ")
    assert "reinstall the package" in message
    assert "\n" not in message


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("")])
def test_without_checksums_nothing_is_used(embedded: Path, damage) -> None:
    damage(embedded / "SHA256SUMS")
    with pytest.raises(InputError, match=r"SHA256SUMS: missing or empty.*reinstall the package"):
        assets.find("tiny")


def test_checksums_of_a_name_that_no_file_can_have_are_damaged(embedded: Path) -> None:
    with (embedded / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  {'7' * 5000}\n")
    with pytest.raises(InputError, match=r"SHA256SUMS: damaged .*name too long.*reinstall"):
        assets.find("tiny")


def test_a_package_without_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "FOLDER", tmp_path)
    with pytest.raises(InputError, match=r"no embedded model: make one with `diffsight pretrain"):
        assets.find("tiny")


def test_unknown_names() -> None:
    with pytest.raises(InputError, match=r"no model 'tinny' .* did you mean 'tiny'"):
        assets.find("tinny")
