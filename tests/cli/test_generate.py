"""``diffsight generate``: one PNG with a row per prompt."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from diffsight.cli import main
from diffsight.datasets.files import read_image
from diffsight.inference.generate import generate

QUICK = ["--steps", "2", "--size", "32", "--device", "cpu"]


def test_one_prompt_gives_the_image_of_its_seed(
    embedded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.png"
    assert main(["generate", "a red sphere", "--out", str(out), "--seed", "3", *QUICK]) == 0
    (expected,) = generate("a red sphere", seed=3, steps=2, size=32, device="cpu")
    assert torch.equal(read_image(out), expected)
    assert capsys.readouterr() == (f"{out}\n", "")
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["x.png"]


def test_several_prompts_and_seeds_give_a_grid(pipeline_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    command = ["generate", "a", "b", "--out", str(out), "--count", "3", *QUICK]
    command += ["--model", str(pipeline_folder), "--guidance", "2", "--negative", "c"]
    assert main(command) == 0
    sheet = read_image(out)
    assert sheet.shape == (3, 2 * 32, 3 * 32)
    images = generate(
        ["a", "b"],
        model=pipeline_folder,
        count=3,
        steps=2,
        size=32,
        guidance=2.0,
        negative="c",
        device="cpu",
    )
    for row in range(2):
        for column in range(3):
            cell = sheet[:, 32 * row : 32 * (row + 1), 32 * column : 32 * (column + 1)]
            assert torch.equal(cell, images[3 * row + column])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "gone/x.png"], "gone/x.png: cannot be written (No such file or directory)"),
        (["--out", "file/x.png"], "file/x.png: cannot be written (Not a directory)"),
        (["--out", "x.jpg"], "--out x.jpg: the output is a PNG"),
        (
            ["--out", "x.png", "--size", "999424"],
            "1 x 999424 x 999424 px: takes at least ",
        ),
        (["--out", "x.png", "--count", "999999999999"], "are free: choose a smaller --size, or a"),
        (["--out", "x.png", "--size", "33"], "size 33: tiny needs a multiple of 32 px"),
        (["--out", "x.png", "--device", "abacus"], "device 'abacus' cannot be used"),
        (["--out", "x.png", "--model", "tinny"], "tinny: has no folder scheduler/: give tiny"),
    ],
)
def test_invalid_options_are_refused_in_one_line(
    arguments: list[str],
    message: str,
    embedded: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(["generate", "a", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("*.png"))


def test_an_earlier_picture_is_kept_if_generation_fails(
    embedded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.png"
    Image.new("RGB", (20, 20), "red").save(out)
    before = out.read_bytes()
    (embedded / "vae" / "config.json").write_text("{}")
    assert main(["generate", "a", "--out", str(out)]) == 2
    assert "vae/config.json: cut off or changed" in capsys.readouterr().err
    assert out.read_bytes() == before
