"""Pose models on the command line: predict, explain and evaluate."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support import SMALL
from tests.support_cli import photo
from tests.support_cli import predict as run
from tests.support_datasets import person_detection, write_detections, write_people
from tests.support_films import noisy_scene, write_film
from tests.support_inference import write_detector

from diffsight import cli
from diffsight.backbones import StableDiffusion
from diffsight.heads import HeatmapHead
from diffsight.hub import save
from diffsight.inference.explain import explain
from diffsight.inference.films import FilmResults
from diffsight.inference.video import Frame
from diffsight.methods import MetaPrompts
from diffsight.model import DenseModel
from diffsight.necks import Fused
from diffsight.prompts import LearnedTokens
from diffsight.tasks import Pose, Prediction


def coco_model(**options: Any) -> DenseModel:
    torch.manual_seed(0)
    backbone = StableDiffusion(SMALL, conv_out=True, time_embedding=False, resize_skips=True)
    method = partial(
        MetaPrompts,
        backbone=backbone,
        prompts=[LearnedTokens(4, dim=24)],
        rearrange=Fused,
        head=partial(HeatmapHead, width=4),
        passes=2,
    )
    return DenseModel(task=Pose(height=64, width=64, **options), method=method).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(coco_model(), tmp_path_factory.mktemp("pose") / "model.safetensors")


def test_predict_writes_the_joints_of_every_box(saved: Path, tmp_path: Path) -> None:
    for name in ("000000000139.jpg", "b.png"):
        photo(tmp_path / "in" / name, 30, 40)
    rows = [
        person_detection(139, 0.9, 4, 5, 20, 10),
        person_detection("b.png", 0.5, 1, 1, 9, 9),
        person_detection("b", 0.4, 9, 3, 9, 9),
    ]
    boxes = write_detections(tmp_path, rows)
    out = tmp_path / "out"
    assert run(saved, tmp_path / "in", "--out", out, "--boxes", boxes) == 0
    assert {p.name for p in out.iterdir()} == {
        f"{name}{end}"
        for name in ("000000000139", "b")
        for end in ("_keypoints.npy", "_colour.png", ".json")
    }
    about = json.loads((out / "000000000139.json").read_text())
    (person,) = about["people"]
    assert person["box"] == [4.0, 5.0, 24.0, 15.0]
    assert len(person["joints"]) == 17
    assert np.load(out / "000000000139_keypoints.npy").shape == (1, 17, 3)
    with Image.open(out / "b_colour.png") as drawn:
        assert drawn.size == (40, 30)


def test_invalid_boxes_are_refused_in_one_line(
    saved: Path, depth_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = photo(tmp_path / "a.jpg", 30, 40)
    wrong = write_detections(tmp_path, [person_detection("other.jpg", 0.9, 4, 5, 20, 10)])
    assert run(saved, image, "--out", tmp_path / "out", "--boxes", wrong) == 2
    assert "no boxes of the given images (it has other.jpg)" in capsys.readouterr().err
    outside = write_detections(tmp_path, [person_detection("a.jpg", 0.9, 400, 5, 20, 10)])
    assert run(saved, image, "--out", tmp_path / "out", "--boxes", outside) == 1
    assert "lies outside of its image of 40 x 30 px" in capsys.readouterr().err
    assert run(depth_model, image, "--out", tmp_path / "out", "--boxes", outside) == 2
    assert "predicts no joints: leave --boxes out" in capsys.readouterr().err


def test_missing_boxes_and_detector_are_refused_in_one_line(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = photo(tmp_path / "a.jpg", 30, 40)
    assert run(saved, image, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err.strip()
    assert "give boxes with --boxes FILE" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out" / "a.json").exists()


def test_an_image_without_a_detected_person_is_reported_in_one_line(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_detector(tmp_path / "detector", {0: "person", 1: "cat"}, bias=-9.0)
    image, out = photo(tmp_path / "a.jpg", 30, 40), tmp_path / "out"
    assert run(saved, image, "--out", out, "--detector", tmp_path / "detector") == 0
    lines = capsys.readouterr().err.splitlines()
    line = f"{image}: no person was found: give boxes with --boxes FILE"
    assert [one for one in lines if "person" in one] == [line]
    assert json.loads((out / "a.json").read_text())["people"] == []
    assert np.load(out / "a_keypoints.npy").shape == (0, 17, 3)
    photo(tmp_path / "b.jpg", 30, 40)
    boxes = write_detections(tmp_path, [person_detection("b.jpg", 0.9, 4, 5, 20, 10)])
    photos = tmp_path / "*.jpg"
    assert run(saved, photos, "--out", out, "--boxes", boxes) == 0
    printed = capsys.readouterr().err
    assert printed.count("no person was found") == 1
    assert f"{image}: no person was found" in printed
    assert len(json.loads((out / "b.json").read_text())["people"]) == 1


def test_a_film_with_another_detector_starts_again(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        write_detector(tmp_path / name, {0: "person", 1: "cat"}, bias=-9.0)
    film, add, numbers = write_film(tmp_path / "clip.mp4", noisy_scene(3)), FilmResults.add, []

    def interrupted(self: FilmResults, frame: Frame, prediction: Prediction) -> None:
        numbers.append(frame.number)
        if len(numbers) == 2:
            raise KeyboardInterrupt
        add(self, frame, prediction)

    monkeypatch.setattr(FilmResults, "add", interrupted)
    command = (saved, film, "--out", tmp_path / "out", "--overlay-only", "--detector")
    assert run(*command, tmp_path / "one") == 130
    assert run(*command, tmp_path / "two") == 0
    assert numbers == [1, 2, 1, 2, 3]


def test_explain_draws_the_attention_of_every_prompt_for_one_person() -> None:
    image = torch.randint(256, (3, 50, 90), dtype=torch.uint8)
    explanation = explain(coco_model(), image)
    assert explanation.picture.shape == (3, 64, 64)
    assert len(explanation.maps) == 4
    assert all(one.shape == (64, 64) for one in explanation.maps.values())
    assert explanation.classes is None


def test_stored_results_have_the_scores_of_the_model(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_people(tmp_path)
    data = ["--data", "CocoKeypoints", f"root={tmp_path}", "split=val"]
    results, report = tmp_path / "results.json", tmp_path / "report.json"
    command = ["evaluate", *data, "--protocol", "coco-pose-v1"]
    own = ["--model", str(saved), "--device", "cpu", "--results", str(results)]
    assert cli.main([*command, *own, "--out", str(report)]) == 0
    rows = json.loads(results.read_text())
    assert {row["image_id"] for row in rows} == {139}
    assert all(len(row["keypoints"]) == 51 and row["category_id"] == 1 for row in rows)
    first = json.loads(report.read_text())
    assert "mean pose (oracle)" in first["baselines"]
    assert cli.main([*command, "--predictions", str(results), "--out", str(report)]) == 0
    second = json.loads(report.read_text())
    assert second["metrics"] == pytest.approx(first["metrics"])
    for row in rows:
        row["image_id"] = 42
    results.write_text(json.dumps(rows))
    capsys.readouterr()
    assert cli.main([*command, "--predictions", str(results)]) == 2
    assert "1 images are not in the data set: 42" in capsys.readouterr().err
    results.write_text(json.dumps([{"image_id": 139, "keypoints": [1.0], "score": 1.0}]))
    assert cli.main([*command, "--predictions", str(results)]) == 2
    assert "entry 0 has 1 numbers for 17 joints" in capsys.readouterr().err


def test_results_of_a_depth_model_are_refused(
    depth_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_people(tmp_path)
    data = ["--data", "CocoKeypoints", f"root={tmp_path}", "split=val"]
    command = ["evaluate", *data, "--model", str(depth_model), "--results", str(tmp_path / "r")]
    assert cli.main(command) == 2
    assert "predicts no joints: leave --results out" in capsys.readouterr().err
