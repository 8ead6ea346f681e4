"""Models of joints on the command line."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.datasets.test_coco_keypoints import box, write, write_boxes
from tests.support import SMALL
from tests.support_cli import photo
from tests.support_cli import predict as run

from diffsight import cli
from diffsight.backbones import StableDiffusion
from diffsight.heads import HeatmapHead
from diffsight.hub import save
from diffsight.inference.explain import explain
from diffsight.methods import MetaPrompts
from diffsight.model import DenseModel
from diffsight.necks import Fused
from diffsight.prompts import LearnedTokens
from diffsight.tasks import Pose


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


def test_predict_draws_people_where_boxes_are(saved: Path, tmp_path: Path) -> None:
    for name in ("000000000139.jpg", "b.png"):
        photo(tmp_path / "in" / name, 30, 40)
    rows = [box(139, 0.9, 4, 5, 20, 10), box("b.png", 0.5, 1, 1, 9, 9), box("b", 0.4, 9, 3, 9, 9)]
    boxes = write_boxes(tmp_path, rows)
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


def test_boxes_that_do_not_fit_cost_one_line(
    saved: Path, depth_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = photo(tmp_path / "a.jpg", 30, 40)
    wrong = write_boxes(tmp_path, [box("other.jpg", 0.9, 4, 5, 20, 10)])
    assert run(saved, image, "--out", tmp_path / "out", "--boxes", wrong) == 2
    assert "names none of the images (it has other.jpg)" in capsys.readouterr().err
    outside = write_boxes(tmp_path, [box("a.jpg", 0.9, 400, 5, 20, 10)])
    assert run(saved, image, "--out", tmp_path / "out", "--boxes", outside) == 1
    assert "lies outside of its image of 40 x 30 px" in capsys.readouterr().err
    assert run(depth_model, image, "--out", tmp_path / "out", "--boxes", outside) == 2
    assert "finds no joints: leave --boxes out" in capsys.readouterr().err


def test_without_boxes_and_network_there_is_one_line(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = photo(tmp_path / "a.jpg", 30, 40)
    assert run(saved, image, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err.strip()
    assert "give boxes with --boxes FILE" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out" / "a.json").exists()


def test_explain_shows_what_prompts_attend_to_in_the_view_of_one_person() -> None:
    image = torch.randint(256, (3, 50, 90), dtype=torch.uint8)
    found = explain(coco_model(), image)
    assert found.picture.shape == (3, 64, 64)
    assert len(found.maps) == 4
    assert all(one.shape == (64, 64) for one in found.maps.values())
    assert found.classes is None


def test_results_are_written_and_scored_again(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
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


def test_results_are_those_of_joints(
    depth_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    data = ["--data", "CocoKeypoints", f"root={tmp_path}", "split=val"]
    command = ["evaluate", *data, "--model", str(depth_model), "--results", str(tmp_path / "r")]
    assert cli.main(command) == 2
    assert "finds no joints: leave --results out" in capsys.readouterr().err
