"""``diffsight demo`` from rendering to the picture, a few steps long."""

from pathlib import Path

import pytest
from PIL import Image

import diffsight
from diffsight.cli import main

SHORT = [
    *("--train.count", "6", "--val.count", "3", "--steps", "2", "--batch_size", "2"),
    *("--train.size", "32", "--val.size", "32", "--preload", "1"),
]


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), *SHORT]) == 0
    text = capsys.readouterr().out
    for row in ("model", "constant median", "mean map", "x that of the mean map", "rooms-v1"):
        assert row in text
    with Image.open(out / "rooms.png") as picture:
        # four panels and three rooms, enlarged to 192 pixels each
        assert picture.size == (4 * 192, 3 * 192)
    assert diffsight.load(str(out / "run" / "model")).task.label == "depth_m"
    # again, in the same folder
    assert main(["demo", "--out", str(out), *SHORT, "--steps", "1"]) == 0


def test_demo_reports_a_wrong_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo"), "--stps", "1"]) == 2
    assert "unknown key 'stps': did you mean 'steps'?" in capsys.readouterr().err
