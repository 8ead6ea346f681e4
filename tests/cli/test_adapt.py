"""``diffsight adapt``, its invalid options, and other commands on the adapted model."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.support_adapt import COUNT, write_pictures

from diffsight import hub
from diffsight.adaptation.selection import Selection
from diffsight.backbones.stable_diffusion import VAEEncoder
from diffsight.cli import main
from diffsight.errors import InputError


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def adapt(folder: Path, out: Path, *more: object) -> int:
    data = ("--images", folder / "images", "--labels", folder / "labels", "--out", out)
    cheap = {"--method": "feature_head", "--backbone": "tiny", "--steps": 2}
    defaults = [part for pair in cheap.items() if pair[0] not in more for part in pair]
    return run("adapt", *data, *defaults, *more)


def counted(function: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return function(*args, **kwargs)

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with images and masks."""
    return write_pictures(tmp_path / "data", "segmentation")


@pytest.mark.usefixtures("embedded")
def test_an_adapted_model_can_be_shown_run_and_evaluated(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.safetensors"
    assert adapt(folder, out, "--kind", "segmentation") == 0
    printed = capsys.readouterr().out
    assert "2 classes: class 2, class 7" in printed
    (line,) = (line for line in printed.splitlines() if line.startswith("held out: "))
    assert re.search(r" feature_head [\d.]+, constant [\d.]+, mean map [\d.]+ \(mIoU, %\)$", line)
    assert f"diffsight predict PHOTO.jpg --model {out} --out DIR" in printed
    assert run("show", out) == 0
    assert capsys.readouterr().out == printed
    assert run("show", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["info"]["kind"] == "segmentation"
    images = folder / "images"
    assert run("predict", images, "--model", out, "--out", tmp_path / "p") == 0
    about = json.loads((tmp_path / "p" / "0.json").read_text())
    assert about["names"] == {"2": "class 2", "7": "class 7"}
    ids = np.asarray(Image.open(tmp_path / "p" / about["classes"]))
    assert ids.shape == (64, 64)
    assert set(np.unique(ids)) <= {2, 7}
    arguments = ("--model", out, "--classes", "class 7", "--out", tmp_path / "q")
    assert run("predict", images, *arguments) == 0
    assert set(np.unique(np.asarray(Image.open(tmp_path / "q" / "0_classes.png")))) == {7}
    data = ("--images", images, "--labels", folder / "labels")
    assert run("evaluate", "--model", out, *data, "--json", "--record") == 0
    report = json.loads(capsys.readouterr().out)
    figures = ["mIoU, %", "pixel accuracy, %", "IoU class 2, %", "IoU class 7, %"]
    assert list(report["metrics"]) == figures
    assert report["images"] == COUNT
    # baselines of the training labels are stored in the model
    assert report["baselines"].keys() == {"constant majority", "majority map"}
    assert run("show", out) == 0
    assert "evaluated: Segmentation metric on " in capsys.readouterr().out


@pytest.mark.usefixtures("embedded")
def test_several_models_encode_every_image_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two models on one backbone predict together what each of them predicts alone."""
    folder, first, second = (
        write_pictures(tmp_path / "data"),
        tmp_path / "a.safetensors",
        tmp_path / "b",
    )
    assert adapt(folder, first, "--kind", "scalar") == 0
    assert adapt(folder, second, "--kind", "depth", "--seed", 1) == 0
    images, calls = folder / "images", []
    both = ("--model", first, "--model", second)
    monkeypatch.setattr(VAEEncoder, "forward", counted(VAEEncoder.forward, calls))
    assert run("predict", images, *both, "--out", tmp_path / "p") == 0
    assert len(calls) == COUNT
    about = json.loads((tmp_path / "p" / "b" / "1.json").read_text())
    assert about["size"] == [80, 48]
    assert "uncertainty_m" in about
    assert run("predict", images, "--model", first, "--out", tmp_path / "q") == 0
    together, alone = (np.load(tmp_path / name / "0_values.npy") for name in ("p/a", "q"))
    assert np.array_equal(together, alone)
    twice = ("--model", first, "--model", first)
    assert run("predict", images, *twice, "--out", tmp_path / "p") == 2


@pytest.mark.usefixtures("embedded")
def test_predict_needs_trust_for_a_method_that_adapt_was_given_by_name(
    folder: Path, tmp_path: Path
) -> None:
    """A class on the command line is trusted; a class named by a saved model is not."""
    out = tmp_path / "mine"
    typed = ("--kind", "segmentation", "--method", "tests.support_cli.OwnHead")
    assert adapt(folder, out, *typed) == 0
    method = hub.read_config(out)["method"]["class_path"]
    assert method == "tests.support_cli.OwnHead"
    arguments = ("predict", folder / "images", "--model", out, "--out", tmp_path / "p")
    assert run(*arguments) == 2
    assert run(*arguments, "--trust", "tests") == 0


BAD_OPTIONS = {
    "--shots 9": ("6 labelled image(s)", "--shots 6"),
    "--unit m": ("no unit",),
    "--bins 5": ("bins are for numbers",),
    "--shots 0": ("0 shots",),
    "--shots -1": ("-1 shots",),
    "--steps 0": ("steps 0: give a whole number from 1 on",),
    "--minutes nan": ("nan minutes",),
    "--minutes inf": ("inf minutes",),
    "--alpha nan": ("alpha nan",),
    "--short-side 0": ("short side 0", "from 16 on"),
    f"--seed {2**70}": ("seed", "give a smaller number"),
    "--device meta": ("'meta' cannot be used",),
    "--method few-shot": ("unknown method 'few-shot': did you mean 'few_shot'?",),
    "--method os.system": ("'os.system'", "is not derived from a configurable class"),
    "--method tests.support_cli.photo": ("is not derived from a configurable class",),
}


@pytest.mark.usefixtures("embedded")
def test_invalid_options_are_refused_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.safetensors"
    for arguments, parts in BAD_OPTIONS.items():
        assert adapt(folder, out, "--kind", "segmentation", *arguments.split()) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert all(part in line for part in parts), line
        assert not out.exists()
    assert adapt(folder, out, "--kind", "segmentation", "--backbone", tmp_path) == 2
    assert str(tmp_path) in capsys.readouterr().err


BAD_NAMES = {
    "one\n": ("1 class names", "2 (", "7 ("),
    "one\n\ntwo\n": ("names.txt", "line 2 is empty"),
    "one\n" * 8: ("8 classes are named 'one'",),
    "": ("names.txt", "contains no name"),
}


@pytest.mark.usefixtures("embedded")
def test_invalid_files_of_class_names_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, names = tmp_path / "mine.safetensors", tmp_path / "names.txt"
    for text, parts in BAD_NAMES.items():
        names.write_text(text)
        assert adapt(folder, out, "--kind", "segmentation", "--classes", names) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert all(part in line for part in parts), line
    assert adapt(folder, out, "--kind", "segmentation", "--classes", tmp_path / "none.txt") == 2
    assert "none.txt: cannot be read" in capsys.readouterr().err


@pytest.mark.usefixtures("embedded")
def test_outputs_that_cannot_be_written_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, kind = tmp_path / "mine.safetensors", ("--kind", "segmentation")
    others, plain = tmp_path / "others", tmp_path / "plain"
    others.mkdir()
    (others / "holiday.jpg").write_text("a picture")
    plain.write_text("a file")
    out.write_text("precious")
    for path, more, message in [
        (Path(), (), "not a name for the output"),
        (out, (), "--overwrite"),
        (others, ("--overwrite",), "is a folder that holds no model"),
        (plain, ("--overwrite",), "is a file, but a model is"),
        (tmp_path / "none" / "mine", (), "cannot be written"),
    ]:
        assert adapt(folder, path, *kind, *more) == 2
        assert message in capsys.readouterr().err
    assert out.read_text() == "precious"
    for arguments in (
        ("show", out),
        ("predict", folder / "images", "--model", out, "--out", others),
    ):
        assert run(*arguments) == 2
        assert "mine.safetensors: no safetensors file" in capsys.readouterr().err
    assert adapt(folder, out, *kind, "--overwrite") == 0


@pytest.mark.usefixtures("embedded")
def test_white_is_a_class_in_black_and_white_masks_unless_invalid_is_255(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.safetensors"
    for path in (folder / "labels").iterdir():
        mask = np.asarray(Image.open(path)) == 7
        Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    assert adapt(folder, out, "--kind", "segmentation", "--invalid", 255) == 2
    assert "at least two classes are needed" in capsys.readouterr().err
    assert adapt(folder, out, "--kind", "segmentation") == 0
    assert run("predict", folder / "images", "--model", out, "--out", tmp_path / "p") == 0
    about = json.loads((tmp_path / "p" / "0.json").read_text())
    assert about["names"] == {"0": "class 0", "255": "class 255"}


@pytest.mark.usefixtures("embedded")
def test_class_names_are_logged_with_their_colours(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Names are assigned to colours in ascending order; the log shows which has which."""
    names = tmp_path / "names.txt"
    for path in (folder / "labels").iterdir():
        square = np.asarray(Image.open(path)) == 7
        mask = np.where(square[..., None], (255, 0, 0), (0, 0, 255)).astype(np.uint8)
        Image.fromarray(mask).save(path)
    names.write_text("ground\nsquare\n")
    caplog.set_level("INFO")
    arguments = ("--kind", "segmentation", "--classes", names)
    assert adapt(folder, tmp_path / "mine.safetensors", *arguments) == 0
    assert "  ground (#0000ff): " in caplog.text
    assert "  square (#ff0000): " in caplog.text


def test_validation_accepts_one_folder_or_two(
    embedded: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    folder, other = write_pictures(tmp_path / "data"), write_pictures(tmp_path / "other", seed=1)
    arguments = ("--kind", "scalar", "--method", "few_shot", "--validation")
    assert adapt(folder, tmp_path / "a.safetensors", *arguments, other, other, other) == 2
    assert "--validation: 3 folders: give DIR, or IMAGES and LABELS" in capsys.readouterr().err
    for name, held in (("a", (other,)), ("b", (other / "images", other / "labels"))):
        assert adapt(folder, tmp_path / f"{name}.safetensors", *arguments, *held) == 0
    first, second = (hub.read_config(tmp_path / f"{name}.safetensors") for name in "ab")
    assert first == second  # equal configurations contain equal fingerprints of the weights
    assert "few_shot, 2 steps" in capsys.readouterr().out
    # without a terminal, one line per training is logged
    assert " 50 %  few_shot, all images" in caplog.messages


def test_resuming_after_a_failed_save_does_not_train_again(
    embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is kept until the model is saved."""
    folder, out = write_pictures(tmp_path / "data"), tmp_path / "mine.safetensors"
    save = hub.save

    def full(*_: Any, **__: Any) -> None:
        raise InputError("no space")

    monkeypatch.setattr(hub, "save", full)
    assert adapt(folder, out, "--kind", "scalar") == 2
    state = tmp_path / "mine.safetensors.resume"
    assert state.is_file()
    monkeypatch.setattr(hub, "save", save)
    monkeypatch.setattr("diffsight.training.resumable.train", pytest.fail)
    assert adapt(folder, out, "--kind", "scalar", "--resume") == 0
    assert out.is_file()
    assert not state.exists()


def test_a_model_is_loaded_with_the_new_path_of_a_moved_backbone(
    pipeline_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, out, base = write_pictures(tmp_path / "data"), tmp_path / "mine", tmp_path / "base"
    shutil.copytree(pipeline_folder, base)
    arguments = ("--kind", "scalar", "--method", "few_shot", "--backbone", base)
    assert adapt(folder, tmp_path / "whole.safetensors", *arguments) == 0
    save = hub.save
    monkeypatch.setattr(hub, "save", lambda model, path: save(model, path, embed=False))
    assert adapt(folder, out, *arguments) == 0
    predict = ("predict", folder / "images" / "0.png", "--model")
    assert run(*predict, out, "--out", tmp_path / "a") == 0
    base.rename(tmp_path / "moved")
    assert run(*predict, out, "--out", tmp_path / "b") == 2
    error = capsys.readouterr().err
    assert all(part in error for part in (str(out), str(base), "--backbone"))
    moved = ("--backbone", tmp_path / "moved")
    assert run(*predict, out, "--out", tmp_path / "b", *moved) == 0
    # by default a saved model contains its local backbone
    assert run(*predict, tmp_path / "whole.safetensors", "--out", tmp_path / "w") == 0
    first, again = (np.load(tmp_path / name / "0_values.npy") for name in "ab")
    assert np.array_equal(first, again)
    assert run("explain", *predict[1:], out, "--out", tmp_path / "c", *moved) == 0
    assert run(*predict, out, "--out", tmp_path / "b", *moved, "--scene", "kitchen") == 2
    weights = tmp_path / "moved" / "image_encoder" / "model.safetensors"
    tower = load_file(weights)
    save_file({name: value * 1.5 for name, value in tower.items()}, weights)
    assert run(*predict, out, "--out", tmp_path / "d", *moved) == 2
    assert "give the backbone that it was trained on (--backbone)" in capsys.readouterr().err


def test_a_missing_model_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = write_pictures(tmp_path / "data") / "images"
    model = "models/deep/typo.safetensors"
    assert run("predict", images, "--model", model, "--out", tmp_path / "p") == 2
    assert f"{model}: no such file or folder" in capsys.readouterr().err


@pytest.mark.usefixtures("embedded")
def test_an_interrupted_adaptation_saves_its_model_and_exits_with_130(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, real = tmp_path / "mine.safetensors", Selection._train

    def interrupt(self: Selection, candidate: Any, run: str, *rest: Any) -> Any:
        if run == "all images":
            raise KeyboardInterrupt
        return real(self, candidate, run, *rest)

    monkeypatch.setattr(Selection, "_train", interrupt)
    assert adapt(folder, out, "--kind", "segmentation") == 130
    captured = capsys.readouterr()
    assert "stopped:" in captured.out
    assert (
        "interrupted in feature_head, fold 1 of 1, after 2 of 2 steps: the same command with "
        "--resume continues" in captured.err
    )
    assert hub.read_config(out)["info"]["interrupted"]
    monkeypatch.setattr(Selection, "_train", real)
    assert adapt(folder, out, "--kind", "segmentation", "--resume") == 0
    assert not hub.read_config(out)["info"]["interrupted"]


@pytest.mark.usefixtures("embedded")
def test_the_notes_on_validation_labels_are_logged(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    other = write_pictures(tmp_path / "other", "segmentation", seed=1)
    arguments = ("--kind", "segmentation", "--validation", other)
    assert adapt(folder, tmp_path / "a.safetensors", *arguments) == 0
    index = caplog.messages.index(f"{COUNT} validation images")
    assert caplog.messages[index + 1].endswith("is 'no label', as in the training set")


@pytest.mark.usefixtures("embedded")
def test_evaluate_reads_labels_with_the_unit_that_adapt_was_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = write_pictures(tmp_path / "data"), tmp_path / "k.safetensors"
    arguments = ("--kind", "scalar", "--unit", "K/100", "--invalid", 199)
    assert adapt(folder, out, *arguments) == 0
    info = hub.read_config(out)["info"]
    assert (info["unit"], info["label_unit"], info["label_invalid"]) == ("K", "K/100", 199)
    data = ("--images", folder / "images", "--labels", folder / "labels", "--device", "cpu")
    capsys.readouterr()
    assert run("evaluate", "--model", out, *data, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["baselines"]["constant median"]["RMSE, K"] < 20  # the largest label is 20 K
