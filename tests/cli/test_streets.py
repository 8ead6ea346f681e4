"""Bird's-eye-view maps on the command line: fit, evaluate, predict, explain and show."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support_cli import photo

from diffsight import hub, pipeline
from diffsight.cli import main
from diffsight.datasets import write_rig
from diffsight.streets import Streets

SMALL = [
    *("--train", "Streets", "--train.count", "4", "--train.image_hw", "[32, 64]"),
    *("--val", "Streets", "--val.count", "2", "--val.split", "val", "--val.image_hw", "[32, 64]"),
    *("--steps", "2", "--batch_size", "2", "--validate_every", "2", "--checkpoint_every", "2"),
]


@pytest.fixture(scope="module", params=["streets/ddp_cameras", "streets/ddp_cameras_lidar"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fit")
    assert main(["fit", "--recipe", request.param, "--out", str(out), *SMALL]) == 0
    return out / "model"


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_rig(Streets(split="test", count=1, image_hw=(32, 64))[0].rig, tmp_path / "scene")


def test_evaluate_scores_every_class_and_the_baselines(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", "Streets", "split=test", "count=2", "image_hw=[32, 64]"]
    assert main(["evaluate", "--model", str(model), *data, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["baselines"]) == {"constant mean", "mean map"}
    assert len(result["metrics"]) == 7  # six classes and their mean
    assert result["baselines"]["mean map"]["IoU drivable_area, %"] > 40


def test_predict_draws_the_cameras_and_the_map(model: Path, scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["predict", str(scene), "--model", str(model), "--out", str(out), "--steps", "1,2"]
    assert main(arguments) == 0
    stored = np.load(out / "rig_map.npy")
    assert stored.shape == (50, 50, 6)
    about = json.loads((out / "rig.json").read_text())
    assert about["cell_m"] == 0.5
    assert [row["steps"] for row in about["steps_compared"]] == [1, 2]
    with Image.open(out / "rig_colour.png") as picture:
        assert picture.width == 3 * 64 + 64  # three camera views per row, and the map
    # a rig in memory has the prediction of its file
    alone = pipeline(model)(Streets(split="test", count=1, image_hw=(32, 64))[0].rig)
    assert alone.hw == (50, 50)
    again = pipeline(model)([scene])[0]
    torch.testing.assert_close(again.probability, alone.probability)


def test_explain_draws_the_maps_and_steps(model: Path, scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["explain", str(scene), "--model", str(model), "--out", str(out)]) == 0
    assert {one.name for one in out.iterdir()} == {"explain.json", "maps.png", "steps.png"}


def test_a_model_in_one_file_has_the_same_predictions(model: Path, tmp_path: Path) -> None:
    rig = Streets(split="test", count=1, image_hw=(32, 64))[0].rig
    loaded = hub.load(model)
    again = hub.load(hub.save(loaded, tmp_path / "one.safetensors"))
    first, second = (pipeline(one)(rig).probability for one in (loaded, again))
    assert torch.equal(first, second)
    assert all(one.shape[0] == 6 for one in again.baselines.values())


def test_invalid_inputs_are_refused_in_one_line(
    model: Path, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(*arguments: str) -> str:
        assert main([*arguments, "--model", str(model), "--out", str(tmp_path / "out")]) != 0
        return capsys.readouterr().err

    picture = photo(tmp_path / "a.png")
    assert "a.png: the model reads several cameras: give their JSON file" in error(
        "predict", str(picture)
    )
    assert "their own grid: leave --flip out" in error("predict", str(scene), "--flip")
    about = json.loads(scene.read_text())
    about["cameras"][2].pop("intrinsics")
    scene.write_text(json.dumps(about))
    assert "camera 2: intrinsics must be 3 x 3 finite numbers" in error("explain", str(scene))
    assert not list((tmp_path / "out").glob("*.png"))


def test_unusable_rigs_are_reported_and_the_others_predicted(
    model: Path, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = Streets(split="test", count=1, image_hw=(32, 64))[0]
    small = write_rig(Streets(count=1, image_hw=(16, 64))[0].rig, tmp_path / "small")
    few = replace(
        sample.rig,
        **{
            name: getattr(sample.rig, name)[:, :5]
            for name in ("images", "intrinsics", "camera_to_vehicle", "image_change")
        },
    )
    few = write_rig(few, tmp_path / "few")
    turned = json.loads(scene.read_text())
    turned["cameras"][0]["camera_to_vehicle"][0][0] *= 1000
    turned["cameras"][0]["image"] = "../scene/camera0.png"
    scaled = scene.with_name("scaled.json")
    scaled.write_text(json.dumps(turned))
    out = tmp_path / "out"
    rigs = [str(one) for one in (small, few, scaled, scene)]
    assert main(["predict", *rigs, "--model", str(model), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert "small/rig.json: images of 64 x 16 px: the model needs at least 32 px" in error
    assert "few/rig.json: the model reads 6 cameras, the rig has 5: give all" in error
    assert "scaled.json: camera_to_vehicle must be a rotation" in error
    assert (out / "scene" / "rig_map.npy").exists()


def test_results_do_not_overwrite_a_rig_file(
    model: Path, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_rig(Streets(count=1, image_hw=(32, 64))[0].rig, tmp_path / "other")
    before = other.read_bytes()
    arguments = ["predict", str(scene), "--model", str(model), "--out", str(other.parent)]
    assert main(arguments) == 1
    assert "other/rig.json: exists already and is not of an earlier run" in capsys.readouterr().err
    assert other.read_bytes() == before
    assert main([*arguments[:-1], str(tmp_path / "out")]) == 0
    assert (
        main([*arguments[:-1], str(tmp_path / "out")]) == 0
    )  # replaces the results of an earlier run
    pattern = str(tmp_path / "sc*" / "*.json")
    assert main(["predict", pattern, *arguments[2:-1], str(tmp_path / "again")]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train.cells", "40"], "maps of 40 cells of 0.5 m, the task of 50 cells of 0.5 m"),
        (["--val.cell_m", "1.0"], "maps of 50 cells of 1 m, the task of 50 cells of 0.5 m"),
        (["--augment+=HorizontalFlip"], "HorizontalFlip does not support several cameras"),
        (["--method.covers", "2"], "covers must be more than 0 and at most 1, got 2"),
        (["--method.backbone.stages", "[]"], "give channels and stride of one or more stages"),
        (["--method.backbone.cameras", "0"], "width, context and cameras must be at least 1"),
    ],
)
def test_contradictory_options_are_refused_before_the_training(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    recipe = ["--recipe", "streets/ddp_cameras", "--out", str(out)]
    assert main(["fit", *recipe, *SMALL, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (out / "model").exists()


def test_a_data_set_with_another_cell_length_is_refused(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", "Streets", "split=test", "count=1", "image_hw=[32, 64]", "cell_m=1.0"]
    assert main(["evaluate", "--model", str(model), *data]) == 2
    assert "maps of 50 cells of 1 m, the task of 50 cells of 0.5 m" in capsys.readouterr().err


def test_show_and_the_model_card_give_the_command_for_rigs(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(model)]) == 0
    assert "diffsight predict rig.json --model" in capsys.readouterr().out
    assert 'predict("rig.json")' in (model / "README.md").read_text()


def test_rigs_in_one_batch_have_the_predictions_of_single_rigs(model: Path) -> None:
    """Two passes with noise are averaged. A model without LiDAR also reads rigs without points."""
    rigs = [Streets(split="test", count=3, image_hw=(32, 64))[i].rig for i in range(3)]
    loaded = hub.load(model)
    if "lidar" not in dict(loaded.method.backbone.named_children()):
        rigs[1] = replace(rigs[1], points=None)
    predict = pipeline(loaded, batch_size=3, ensemble_size=2)
    for one, rig in zip(predict(rigs), rigs, strict=True):
        alone = predict(rig).probability
        torch.testing.assert_close(one.probability, alone, rtol=1e-4, atol=1e-5)
