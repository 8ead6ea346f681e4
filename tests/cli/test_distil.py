"""``diffsight distil``: a student of a saved model, resumed and refused."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.support_adapt import write_pictures
from tests.support_cli import predict
from tests.support_distil import BrightnessMethod, brightness_teacher, write_unlabelled

from diffsight import hub
from diffsight.adaptation import distil as module
from diffsight.cli import main

TRUST = ("--trust", "tests")


def distil(model: Path, images: Path, out: Path, *more: object) -> int:
    data = ("--model", model, "--images", images, "--out", out)
    cheap = {"--steps": 2, "--batch-size": 2, "--device": "cpu"}
    cheap = [part for pair in cheap.items() if pair[0] not in more for part in pair]
    return main(["distil", *map(str, (*data, *cheap, *TRUST, *more))])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return hub.save(brightness_teacher(), tmp_path / "teacher.safetensors")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_unlabelled(tmp_path / "photos", count=3)
    return tmp_path / "photos" / "images"


def test_a_student_is_written_shown_and_predicts(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "student.safetensors"
    assert distil(model, images, out) == 0
    printed = capsys.readouterr().out
    assert "task:      Depth in m" in printed
    assert "method:    SmallUNet\n" in printed
    assert "teacher BrightnessMethod " in printed
    assert "unlabelled images 2, held-out images 1, steps 2" in printed
    assert "agreement with the teacher (RMSE, m) " in printed
    assert sorted(path.name for path in tmp_path.glob("student*")) == [out.name]
    assert main(["show", str(out), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)["info"]
    assert info["teacher"]["fingerprint"] == hub.read_config(model)["fingerprint"]
    assert predict(out, images, "--out", tmp_path / "results") == 0
    report = json.loads((tmp_path / "results" / "0.json").read_text())
    assert report["uncertainty_m"]["kind"] == "standard deviation"


def test_an_interrupted_training_is_continued_with_resume(
    model: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, whole = tmp_path / "student.safetensors", tmp_path / "whole.safetensors"

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "train_resumable", stop)
        assert distil(model, images, out) == 130
    assert not out.exists()
    capsys.readouterr()
    assert distil(model, images, out) == 2
    assert capsys.readouterr().err == (
        f"diffsight: {out}: its training was interrupted: continue with --resume, or start again "
        "with --overwrite\n"
    )
    before = BrightnessMethod.passes
    assert distil(model, images, out, "--resume") == 0
    assert BrightnessMethod.passes == before
    assert distil(model, images, whole) == 0
    assert hub.read_config(out)["fingerprint"] == hub.read_config(whole)["fingerprint"]


def test_images_that_cannot_be_used_are_reported(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "broken.png").write_bytes(b"no image")
    out = tmp_path / "student.safetensors"
    assert distil(model, images, out) == 1
    assert "broken.png" in capsys.readouterr().err
    assert out.exists()


def test_unusable_arguments_are_refused_in_one_line_and_nothing_is_written(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, empty = tmp_path / "student.safetensors", tmp_path / "empty"
    empty.mkdir()

    def refusal(*arguments: object) -> str:
        assert distil(model, *arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert refusal(empty, out).startswith(f"diffsight: {empty}: no images (")
    assert "exists already: choose another --out" in refusal(images, model)
    assert refusal(images, out, "--steps", 0) == (
        "diffsight: steps 0: give a whole number from 1 on"
    )
    assert "nothing to resume" in refusal(images, out, "--resume")
    assert not out.exists()
    assert not (tmp_path / f"{out.name}.resume").exists()


@pytest.mark.usefixtures("embedded")
def test_a_state_of_the_other_command_is_replaced_only_with_overwrite(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The state of ``adapt`` is a file, that of ``distil`` a folder of the same name."""
    data, out = write_pictures(tmp_path / "data"), tmp_path / "student.safetensors"
    state = tmp_path / f"{out.name}.resume"

    def adapt(*more: str) -> int:
        paths = ("--images", data / "images", "--labels", data / "labels", "--out", out)
        cheap = ("--kind", "scalar", "--method", "feature_head", "--backbone", "tiny", "--steps", 1)
        return main(["adapt", *map(str, (*paths, *cheap, *more))])

    def make_folder() -> None:
        state.mkdir()
        for name in ("training.ckpt", f"{'0' * 64}.safetensors"):
            (state / name).write_bytes(b"x")

    def check(command: Callable[..., int], other: str) -> None:
        for more in ((), ("--resume",), ("--resume", "--overwrite")):
            assert command(*more) == 2
            assert capsys.readouterr().err == (
                f"diffsight: {state}: belongs to an interrupted `diffsight {other}`: continue that "
                "with --resume, choose another --out, or remove it with --overwrite\n"
            )
        assert command("--overwrite") == 0
        assert out.exists()
        assert not state.exists()
        out.unlink()
        capsys.readouterr()

    state.write_bytes(b"x")
    check(partial(distil, model, data / "images", out), "adapt")
    make_folder()
    check(adapt, "distil")
    make_folder()
    (state / "notes.txt").write_text("mine")
    assert adapt("--overwrite") == 2
    assert capsys.readouterr().err.endswith(
        f"{state}: is a folder with other files: choose another --out\n"
    )
    assert (state / "notes.txt").read_text() == "mine"
