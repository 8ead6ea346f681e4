"""The way of a newcomer: adapt, show, predict; and what can be wrong with it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.adaptation.test_adapt import pictures

from diffsight.backbones.stable_diffusion import VAEEncoder
from diffsight.cli import main
from diffsight.errors import InputError
from diffsight.hub.task_file import Task


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
    gap = tmp_path / "gap.txt"
    gap.write_text("one\n\ntwo\n")
    twins = tmp_path / "twins.txt"
    twins.write_text("one\n" * 8)
    for more, words in (
        (("--classes", twins), ("8 classes are named 'one'",)),
        (("--classes", names), ("1 class names", "2 (", "7 (")),
        (("--classes", tmp_path / "none.txt"), ("none.txt", "cannot be read")),
        (("--shots", 9), ("6 labelled image(s)", "--shots 6")),
        (("--classes", gap), ("gap.txt", "line 2 is empty")),
        (("--unit", "m"), ("no unit",)),
        (("--bins", 5), ("bins are for numbers",)),
        (("--shots", 0), ("0 shots",)),
        (("--shots", -1), ("-1 shots",)),
        (("--steps", 0), ("steps 0: give a whole number from 1 on",)),
        (("--minutes", "nan"), ("nan minutes",)),
        (("--minutes", "inf"), ("inf minutes",)),
        (("--alpha", "nan"), ("alpha nan",)),
        (("--short-side", 0), ("short side 0", "from 16 on")),
        (("--seed", 2**70), ("seed", "from 0 on, below")),
        (("--device", "meta"), ("'meta' cannot be used",)),
        (("--backbone", tmp_path), (str(tmp_path), "config.json")),
    ):
        assert adapt(folder, out, "--kind", "segmentation", *more) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert all(word in line for word in words), line
        assert not out.exists()
    assert adapt(folder, Path(), "--kind", "segmentation") == 2
    assert "is a folder" in capsys.readouterr().err
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


@pytest.mark.usefixtures("embedded")
def test_black_and_white_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """White is no label, unless it is said that there is none such."""
    folder, out = pictures(tmp_path / "data", "segmentation"), tmp_path / "mine.task"
    for path in (folder / "labels").iterdir():
        mask = np.asarray(Image.open(path)) == 7
        Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    assert adapt(folder, out, "--kind", "segmentation") == 2
    assert "--invalid -1" in capsys.readouterr().err
    assert adapt(folder, out, "--kind", "segmentation", "--invalid", -1) == 0
    images = folder / "images"
    assert run("predict", images, "--task", out, "--out", tmp_path / "p") == 0
    about = json.loads((tmp_path / "p" / "0.json").read_text())
    assert about["names"] == {"0": "class 0", "255": "class 255"}


@pytest.mark.usefixtures("embedded")
def test_every_name_is_told_beside_its_colour(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Names go to colours by their numbers: whoever thought of another order sees it."""
    folder, names = pictures(tmp_path / "data", "segmentation"), tmp_path / "names.txt"
    for path in (folder / "labels").iterdir():
        where = np.asarray(Image.open(path)) == 7
        mask = np.where(where[..., None], (255, 0, 0), (0, 0, 255)).astype(np.uint8)
        Image.fromarray(mask).save(path)
    names.write_text("ground\nsquare\n")
    caplog.set_level("INFO")
    task = ("--kind", "segmentation", "--classes", names)
    assert adapt(folder, tmp_path / "mine.task", *task) == 0
    assert "  ground (#0000ff): " in caplog.text
    assert "  square (#ff0000): " in caplog.text


def test_one_folder_for_validation_and_what_is_told(
    embedded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog
) -> None:
    caplog.set_level("INFO")
    folder, other = pictures(tmp_path / "data"), pictures(tmp_path / "other", seed=1)
    words = ("--kind", "scalar", "--method", "concepts", "--validation")
    assert adapt(folder, tmp_path / "a.task", *words, other, other, other) == 2
    assert "--validation: 3 folders: give DIR, or IMAGES and LABELS" in capsys.readouterr().err
    for name, held in (("a", (other,)), ("b", (other / "images", other / "labels"))):
        assert adapt(folder, tmp_path / f"{name}.task", *words, *held) == 0
    assert (tmp_path / "a.task").read_bytes() == (tmp_path / "b.task").read_bytes()
    assert "learned: 2 steps, seed 0, alpha 1, a codebook of 10 table(s)" in capsys.readouterr().out
    # without a terminal, a line per training
    assert " 50 %  concepts, all images" in caplog.messages


def test_a_task_that_cannot_be_saved_is_not_lost(
    embedded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    """Where it stands is kept until the task is: ``--resume`` learns nothing twice."""
    folder, out = pictures(tmp_path / "data"), tmp_path / "mine.task"
    save = Task.save

    def full(*_: Any) -> None:
        raise InputError("no space")

    monkeypatch.setattr(Task, "save", full)
    assert adapt(folder, out, "--kind", "scalar") == 2
    state = tmp_path / "mine.task.resume"
    assert state.is_file()
    monkeypatch.setattr(Task, "save", save)
    monkeypatch.setattr("diffsight.adaptation.selection.fit", pytest.fail)
    assert adapt(folder, out, "--kind", "scalar", "--resume") == 0
    assert out.is_file()
    assert not state.exists()


def test_a_task_whose_backbone_moved(
    pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    """The whole path is kept, so that it is found from any folder; and told where it is now."""
    folder, out = pictures(tmp_path / "data"), tmp_path / "mine.task"
    shutil.copytree(pipeline_folder, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    assert adapt(folder, out, "--kind", "scalar", "--method", "concepts", "--backbone", "base") == 0
    monkeypatch.chdir(folder)
    words = ("predict", folder / "images" / "0.png", "--task", out)
    assert run(*words, "--out", tmp_path / "a") == 0
    (tmp_path / "base").rename(tmp_path / "moved")
    assert run(*words, "--out", tmp_path / "b") == 2
    told = capsys.readouterr().err
    assert all(part in told for part in (str(out), str(tmp_path / "base"), "--backbone"))
    assert run(*words, "--out", tmp_path / "b", "--backbone", tmp_path / "moved") == 0
    first, again = (np.load(tmp_path / name / "0_values.npy") for name in "ab")
    assert np.array_equal(first, again)
    assert (
        run("explain", *words[1:], "--out", tmp_path / "c", "--backbone", tmp_path / "moved") == 0
    )
    assert run(*words, "--out", tmp_path / "b", "--scene", "kitchen") == 2
    weights = tmp_path / "moved" / "image_encoder" / "model.safetensors"
    tower = load_file(weights)
    save_file({name: value * 1.5 for name, value in tower.items()}, weights)
    assert run(*words, "--out", tmp_path / "d", "--backbone", tmp_path / "moved") == 2
    assert "learned with another CLIP vision model" in capsys.readouterr().err


def test_a_task_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = pictures(tmp_path / "data") / "images"
    assert run("predict", images, "--task", "tasks/typo.task", "--out", tmp_path / "p") == 2
    assert "tasks/typo.task: no such file" in capsys.readouterr().err
