"""``diffsight suggest``: rank the images of a folder for a saved model."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.support_adapt import run, write_pictures
from tests.support_cli import photo

from diffsight import cli
from diffsight.hub import save

KINDS = ("segmentation", "scalar")
BACKBONE = "efficientnet-lite0@32"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 4 labelled and 5 unlabelled images, with models in ``models``."""
    folder = tmp_path_factory.mktemp("photos")
    for kind in KINDS:
        for count in (3, 4) if kind == "segmentation" else (4,):
            data = write_pictures(folder / f"{kind}{count}", kind, count=count)
            options = {"method": "feature_head", "steps": 2, "short_side": 32, "device": "cpu"}
            save(run(data, BACKBONE, kind, **options), folder / f"models/{kind}{count}.safetensors")
    shutil.copytree(folder / "segmentation4" / "images", folder / "images")
    new = write_pictures(folder / "new", seed=1, count=5)
    for path in (new / "images").iterdir():
        shutil.copy(path, folder / "images" / f"new{path.name}")
    return folder


def suggest(images: Path, model: Path, *arguments: str | Path) -> int:
    options = ["--model", str(model), "--device", "cpu", *map(str, arguments)]
    return cli.main(["suggest", str(images), *options])


def report(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


def names(result: dict[str, Any]) -> list[str]:
    return [Path(one["image"]).name for one in result["suggestions"]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_training_images_are_recognised_and_the_others_ranked(
    photos: Path, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, options = photos / f"models/{kind}4.safetensors", ["--disagreement-weight", "1"]
    shutil.copytree(photos / f"{kind}4" / "images", tmp_path, dirs_exist_ok=True)
    for path in (photos / "new" / "images").iterdir():
        shutil.copy(path, tmp_path / f"new{path.name}")
    assert suggest(tmp_path, model, "--json", *options) == 0
    result = report(capsys)
    assert (result["labelled"], result["unlabelled"]) == (4, 5)
    assert sorted(names(result)) == [f"new{i}.png" for i in range(5)]
    assert all(one["disagreement"] >= 0 for one in result["suggestions"])
    assert result["forecast"] is None
    assert result["errors"] == {}


def test_the_text_has_one_image_per_line_with_its_reason(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = photos / "models/segmentation4.safetensors"
    assert suggest(photos / "images", model, "--count", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"  1. {photos / 'images' / 'new'}")
    assert "resemble" in lines[0]
    assert "disagree" not in lines[0]


def test_labelled_images_may_be_in_another_folder_and_copies_count_once(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: Any
) -> None:
    model = photos / "models/segmentation4.safetensors"
    for copy in ("a.png", "b.png"):
        shutil.copy(photos / "new/images/0.png", tmp_path / copy)
    shutil.copy(photos / "new/images/1.png", tmp_path / "c.png")
    assert suggest(tmp_path, model, "--json", "--labelled", photos / "segmentation4/images") == 0
    result = report(capsys)
    assert (result["labelled"], result["unlabelled"]) == (4, 2)
    assert sorted(names(result)) == ["a.png", "c.png"]
    assert "not found" not in caplog.text


def test_training_images_that_are_not_found_are_reported(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    model = photos / "models/segmentation4.safetensors"
    assert suggest(photos / "new/images", model) == 0
    assert "4 of the model's 4 training images were not found" in caplog.text
    assert "--labelled" in caplog.text


def test_the_disagreement_without_labelled_images_is_refused(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = photos / "models/segmentation4.safetensors"
    assert suggest(photos / "new/images", model, "--disagreement-weight", "1") == 2
    assert "needs at least 2 labelled images, and 0 were found" in capsys.readouterr().err


def test_earlier_models_give_a_forecast(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [photos / f"models/segmentation{count}.safetensors" for count in (3, 4)]
    data = write_pictures(tmp_path, "segmentation", count=5)
    options = {"method": "feature_head", "steps": 2, "short_side": 32, "device": "cpu"}
    last = tmp_path / "last.safetensors"
    save(run(data, BACKBONE, "segmentation", **options), last)
    earlier = [word for model in models for word in ("--earlier", model)]
    assert suggest(photos / "images", last, "--json", *earlier) == 0
    forecast = report(capsys)["forecast"]
    assert forecast["metric"] == "mIoU, %"
    assert forecast["labelled_images"] == [6, 7, 8, 9, 10]
    for low, score, high in zip(forecast["low"], forecast["score"], forecast["high"], strict=True):
        assert 0 <= low <= score <= high <= 100
    assert suggest(photos / "images", last, *earlier) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "forecast of the held-out score (mIoU, %), with a 90% interval:" in lines
    assert lines[-1].startswith("    10 labelled images: ")


def test_too_few_scores_for_a_forecast_are_reported(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    three, four = (photos / f"models/segmentation{count}.safetensors" for count in (3, 4))
    assert suggest(photos / "images", four) == 0
    assert "forecast" not in caplog.text
    assert suggest(photos / "images", four, "--earlier", three, "--earlier", four) == 0
    assert (
        "no forecast: it needs the held-out scores for 3 different numbers of labelled images, and "
        "the models have them for 2: give more models with --earlier"
    ) in caplog.messages


def test_an_earlier_model_of_another_task_is_refused(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, other = (photos / f"models/{kind}4.safetensors" for kind in KINDS)
    assert suggest(photos / "images", model, "--earlier", other) == 2
    assert "different metrics (RMSE, counts and mIoU, %)" in capsys.readouterr().err


def test_a_damaged_image_is_reported_and_the_others_are_ranked(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert suggest(tmp_path, photos / "models/scalar4.safetensors", "--json") == 1
    output = capsys.readouterr()
    result = json.loads(output.out)
    assert names(result) == ["good.png"]
    assert list(result["errors"]) == [str(tmp_path / "bad.png")]
    assert "bad.png" in output.err
    (tmp_path / "good.png").unlink()
    assert suggest(tmp_path, photos / "models/scalar4.safetensors") == 2


def test_a_model_without_a_frozen_backbone_gets_features_of_a_small_network(
    depth_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        photo(tmp_path / f"{i}.png", 64, 64)
    assert suggest(tmp_path, depth_model, "--json") == 0
    assert len(report(capsys)["suggestions"]) == 3


def test_a_folder_without_unlabelled_images(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = photos / "models/segmentation4.safetensors"
    assert suggest(photos / "segmentation4/images", model) == 0
    assert capsys.readouterr().out == "all images are labelled\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--count", "0"], "--count must be at least 1"),
        (["--disagreement-weight", "-1"], "at least 0"),
        (["--labelled", "missing-folder"], "missing-folder: is not a folder"),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    photos: Path, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert suggest(photos / "images", photos / "models/scalar4.safetensors", *arguments) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.startswith("diffsight: ")


def test_paths_begin_with_the_folder_as_it_is_typed(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photos / "models")
    for typed in ("../images", "../models/../images"):
        assert suggest(Path(typed), Path("segmentation4.safetensors"), "--count", "1") == 0
        assert capsys.readouterr().out.startswith(f"  1. {typed}/new")
