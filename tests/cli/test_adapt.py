"""The way of a newcomer: adapt, show, predict; and what can be wrong with it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.training.test_adapt import pictures

from diffsight.backbones.stable_diffusion import VAEEncoder
from diffsight.cli import main


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def adapt(folder: Path, out: Path, *more: object) -> int:
    where = ("--images", folder / "images", "--labels", folder / "labels")
    return run("adapt", *where, "--out", out, "--method", "features", "--steps", 2, *more)


def counted(function: Any, calls: list[int]) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return function(*args, **kwargs)

    return call


@pytest.mark.usefixtures("embedded")
def test_adapt_show_predict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = pictures(tmp_path / "data", "segmentation"), tmp_path / "mine.task"
    assert adapt(folder, out, "--kind", "segmentation") == 0
    told = capsys.readouterr().out
    assert "classes: class 2, class 7" in told
    assert "held out (mIoU, %): features" in told
    assert run("show", out) == 0
    assert "features, " in capsys.readouterr().out
    assert run("show", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "segmentation"
    other = tmp_path / "depth.task"
    assert adapt(folder, other, "--kind", "depth") == 0
    images = folder / "images"
    encoded = []
    monkeypatch.setattr(VAEEncoder, "forward", counted(VAEEncoder.forward, encoded))
    assert run("predict", images, "--task", out, "--task", other, "--out", tmp_path / "p") == 0
    assert len(encoded) == 6  # one pass per image for both tasks
    about = json.loads((tmp_path / "p" / "mine" / "0.json").read_text())
    assert about["names"] == {"2": "class 2", "7": "class 7"}
    found = np.asarray(Image.open(tmp_path / "p" / "mine" / about["classes"]))
    assert found.shape == (64, 64)
    assert set(np.unique(found)) <= {2, 7}
    words = ("--task", out, "--classes", "class 7", "--out", tmp_path / "q")
    assert run("predict", images, *words) == 0
    assert set(np.unique(np.asarray(Image.open(tmp_path / "q" / "0_classes.png")))) == {7}
    about = json.loads((tmp_path / "p" / "depth" / "1.json").read_text())
    assert about["size"] == [80, 48]
    assert "uncertainty_m" in about


@pytest.mark.usefixtures("embedded")
def test_what_can_be_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = pictures(tmp_path / "data", "segmentation"), tmp_path / "mine.task"
    names = tmp_path / "names.txt"
    names.write_text("one\n")
    for more, words in (
        (("--classes", names), ("1 class names", "2 (", "7 (")),
        (("--classes", tmp_path / "none.txt"), ("none.txt", "cannot be read")),
        (("--shots", 9), ("6 labelled image(s)", "--shots 6")),
        (("--unit", "m"), ("no unit",)),
        (("--backbone", tmp_path), (str(tmp_path), "config.json")),
    ):
        assert adapt(folder, out, "--kind", "segmentation", *more) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert all(word in line for word in words), line
        assert not out.exists()
    out.write_text("precious")
    assert adapt(folder, out, "--kind", "segmentation") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_text() == "precious"
    assert run("show", out) == 2
    assert "not a whole task file" in capsys.readouterr().err
    assert run("predict", folder / "images", "--task", out, "--out", tmp_path / "p") == 2
    assert "not a whole task file" in capsys.readouterr().err
    assert adapt(folder, out, "--kind", "segmentation", "--overwrite") == 0
    twice = ("--task", out, "--task", out)
    assert run("predict", folder / "images", *twice, "--out", tmp_path / "p") == 2
    assert "two tasks have the same name" in capsys.readouterr().err
