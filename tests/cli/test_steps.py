"""Numbers of steps and uncertainty of DDP on the command line."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support import randomise_weights
from tests.support_cli import photo
from tests.support_cli import predict as run
from tests.support_ddp import build_ddp_depth, build_ddp_segmentation

from diffsight.cli import main
from diffsight.datasets.files import read_image
from diffsight.hub import save


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("ddp")
    made = {"classes": build_ddp_segmentation(), "depth": build_ddp_depth()}
    return {name: save(randomise_weights(model), folder / name) for name, model in made.items()}


@pytest.mark.parametrize("kind", ["classes", "depth"])
def test_predictions_of_several_step_counts_are_drawn_with_their_times(
    models: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    image = photo(tmp_path / "a.png", 48, 64)
    assert run(models[kind], image, "--out", out, "--steps", "1,3,10") == 0
    about = json.loads((out / "a.json").read_text())
    assert [row["steps"] for row in about["steps_compared"]] == [1, 3, 10]
    assert all(row["seconds"] > 0 for row in about["steps_compared"])
    metric = "mIoU, %" if kind == "classes" else "RMSE, m"
    assert about["steps_compared"][0]["compared_with_last"].startswith(metric)
    assert "compared_with_last" not in about["steps_compared"][2]
    sheet = read_image(out / about["steps"])
    assert sheet.shape[2] > 4 * 64  # the photograph and three predictions
    assert about["plan"].endswith("10 steps")
    alone = tmp_path / "alone"
    assert run(models[kind], image, "--out", alone, "--steps", "10") == 0
    again = json.loads((alone / "a.json").read_text())
    assert not (alone / "a_steps.png").exists()
    name = "classes" if kind == "classes" else "depth"
    first, second = (np.asarray(Image.open(f / again[name])) for f in (out, alone))
    assert (first == second).all()
    uncertainty = np.load(alone / again["uncertainty"])
    assert uncertainty.shape == (48, 64)
    assert uncertainty.max() > 0


def test_invalid_steps_are_refused(
    models: dict[str, Path], depth_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = photo(tmp_path / "a.png")
    assert run(models["classes"], image, "--out", tmp_path / "o", "--steps", "3,0") == 2
    assert "steps must be at least 1, got 0" in capsys.readouterr().err
    assert run(depth_model, image, "--out", tmp_path / "o", "--steps", "3") == 2
    assert "depth: VPD has no steps to choose: leave --steps out" in capsys.readouterr().err


def test_evaluate_scores_the_uncertainty(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "pairs"
    rng = np.random.default_rng(0)
    for name in "ab":
        photo(root / "images" / f"{name}.png", 64, 64)
        (root / "depth").mkdir(exist_ok=True)
        counts = rng.integers(1000, 6000, (64, 64)).astype(np.uint16)
        Image.fromarray(counts).save(root / "depth" / f"{name}.png")
    arguments = ["evaluate", "--model", str(models["depth"]), "--device", "cpu"]
    arguments += ["--data", "Folder", f"root={root}", "--uncertainty"]
    assert main([*arguments, "--json", "--steps", "5"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert sorted(report["uncertainty"]) == ["ause", "ece", "errors_in_top_10"]
    assert report["plan"].endswith("5 steps")
    assert main([*arguments, "--protocol", "rooms-v1"]) == 0
    assert "uncertainty  ause" in capsys.readouterr().out
    assert main([*arguments, "--steps", "1"]) == 2
    assert "the predictions have no uncertainty" in capsys.readouterr().err


def test_the_default_uncertainty_of_classes_is_one_minus_confidence(tmp_path: Path) -> None:
    from diffsight.tasks import Segmentation
    from diffsight.tasks.segmentation import ClassPrediction
    from diffsight.types import Target

    task = Segmentation(("a", "b"))
    ids, confidence = torch.tensor([[0, 1]]), torch.tensor([[0.9, 0.6]])
    build = partial(ClassPrediction, ids, confidence, task.names, task.colours)
    target = Target(torch.tensor([[[0, 0]]]), torch.ones(1, 1, 2, dtype=torch.bool))
    plain = task.pixel_errors(build(), target)
    assert plain.error.tolist() == [[0, 1]]
    torch.testing.assert_close(plain.uncertainty, 1 - confidence)
    errors = task.pixel_errors(build(torch.tensor([[0.25, 0.5]])), target)
    assert errors.uncertainty.tolist() == [[0.25, 0.5]]


def test_an_explanation_draws_every_step(models: dict[str, Path], tmp_path: Path) -> None:
    image = photo(tmp_path / "a.png", 48, 64)
    out = tmp_path / "why"
    for kind in ("classes", "depth"):
        arguments = ["explain", str(image), "--model", str(models[kind]), "--out", str(out)]
        assert main([*arguments, "--device", "cpu"]) == 0
        assert read_image(out / "steps.png").shape[2] > 3 * 64
        assert (out / "maps.png").is_file()
