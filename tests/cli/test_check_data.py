"""A data set read end to end."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.datasets.test_ade20k import write

from diffsight.cli import main


def made(root: Path) -> Path:
    values = np.full((20, 30), 3, np.uint8)
    values[:10] = 0
    write(root, values, "training", "a")
    write(root, values, "validation", "b")
    return root


def test_ade20k(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = made(tmp_path)
    wrong = np.full((20, 30), 255, np.uint8)
    write(root, wrong, "training", "c")
    assert main(["check-data", "ade20k", str(root), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    training, validation = report["splits"]
    assert (training["count"], training["official"]) == (2, 20210)
    assert training["labelled"] == pytest.approx(0.5)
    assert training["histogram"] == {"wall": 0, "building": 0, "sky": 300}
    (line,) = training["unreadable"]
    assert "c.png: class 255 of 150" in line
    assert "2 samples, 20,210 in the literature" in training["notes"]
    assert any("no pixel is 'wall'" in note for note in validation["notes"])
    # the two plain images are the same
    assert report["same_images"] == {"training and validation": 1}
    assert main(["check-data", "ade20k", str(root)]) == 1
    text = capsys.readouterr().out
    for part in ("training: 2 samples, 50.0% of pixels", "100.0% sky", "1 cannot be used", "note:"):
        assert part in text


def test_depth_in_the_wrong_unit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("sync/kitchen_0001", "official_splits/test/kitchen"):
        folder = tmp_path / split
        folder.mkdir(parents=True)
        Image.new("RGB", (40, 30), (len(split), 9, 9)).save(folder / "rgb_00000.jpg")
        Image.new("I;16", (40, 30), 3).save(folder / "sync_depth_00000.png")
    assert main(["check-data", "nyu", str(tmp_path), "--json"]) == 1
    train, _ = json.loads(capsys.readouterr().out)["splits"]
    assert train["depth_m"] == pytest.approx([0.003, 0.003, 0.003])
    assert any("is the unit of the files the right one" in note for note in train["notes"])


def test_names_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", "ade2k", str(tmp_path)]) == 2
    assert "did you mean 'ade20k'" in capsys.readouterr().err
    assert main(["check-data", "ade20k", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
