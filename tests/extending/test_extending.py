"""All commands run with a backbone, method, task and data set from another package."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tests.support_rooms import write_labelled_rooms

import diffsight
from diffsight.benchmark.registry import benchmark_methods
from diffsight.benchmark.run import benchmark
from diffsight.benchmark.source import BenchmarkSource, BenchmarkTask
from diffsight.benchmark.units import Settings
from diffsight.cli import main
from diffsight.errors import InputError

NAME = "toy_extension"
RECIPE = {
    "task": {"class_path": f"{NAME}.Brightness"},
    "method": {
        "class_path": f"{NAME}.PixelLinear",
        "init_args": {"backbone": {"class_path": f"{NAME}.Blur", "init_args": {"stride": 2}}},
    },
    "train": {"class_path": f"{NAME}.Gradients", "init_args": {"count": 8}},
    "val": {"class_path": f"{NAME}.Gradients", "init_args": {"count": 4, "seed": 1}},
    "optim": {"class_path": "AdamW", "init_args": {"lr": 0.05}},
    "batch_size": 4,
    "steps": 30,
    "workers": 0,
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the toy recipe with ``diffsight fit``; return the output folder."""
    folder = tmp_path_factory.mktemp("toy")
    recipe = folder / "toy.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        command = ["fit", "--recipe", str(recipe), "--out", str(folder / "run")]
        assert main(command) == 2  # without --trust, nothing is imported from another package
        assert NAME not in sys.modules
        assert main([*command, "--trust", NAME]) == 0
    finally:
        sys.path.pop(0)
    return folder / "run"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.linspace(0, 255, 20 * 30 * 3).reshape(20, 30, 3).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_the_trained_model_is_loaded_only_if_its_package_is_trusted(run: Path) -> None:
    with pytest.raises(InputError, match=NAME):
        diffsight.load(run)
    model = diffsight.load(run, trusted=[NAME])
    assert type(model.task).__name__ == "Brightness"
    assert model.info["training"]["steps"] == 30


@pytest.mark.parametrize("name", ["copy", "copy.safetensors"])
def test_a_loaded_model_predicts_the_same_as_the_saved_one(
    run: Path, tmp_path: Path, name: str
) -> None:
    model = diffsight.load(run, trusted=[NAME])
    diffsight.save(model, tmp_path / name)
    loaded = diffsight.load(tmp_path / name, trusted=[NAME])
    image = torch.rand(3, 21, 33, generator=torch.Generator().manual_seed(0))
    first, second = (diffsight.pipeline(one, device="cpu")(image) for one in (model, loaded))
    assert torch.equal(first.values, second.values)
    assert first.hw == (21, 33)


def test_evaluate_uses_the_metric_of_the_task(run: Path, capsys) -> None:
    evaluation = diffsight.evaluate(
        run, dataset=_gradients(count=3, seed=2), device="cpu", trusted=[NAME]
    )
    scores = evaluation.scores
    assert scores["model"]["MAE"] < 0.5 * scores["dark"]["MAE"]
    data = ["--data", f"{NAME}.Gradients", "count=3", "seed=2"]
    command = ["evaluate", "--model", str(run), "--trust", NAME, "--json", *data]
    assert main([*command, "--device", "cpu"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["metrics"]["MAE"] == pytest.approx(scores["model"]["MAE"])


def test_predict_writes_the_arrays_and_metadata_of_the_prediction(
    run: Path, photo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["predict", str(photo), "--model", str(run), "--out", str(out), "--device", "cpu"]
    assert main(command) == 2
    assert main([*command, "--trust", NAME, "--flip", "--windows", "2"]) == 0
    assert np.load(out / "photo_brightness.npy").shape == (20, 30)
    about = json.loads((out / "photo.json").read_text())
    assert about["size"] == [30, 20]
    assert about["brightness"] == "photo_brightness.npy"
    assert (out / "photo_colour.png").is_file()


def test_explain_runs_on_a_custom_method(run: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "why"
    command = ["explain", str(photo), "--model", str(run), "--out", str(out), "--trust", NAME]
    assert main([*command, "--device", "cpu"]) == 0
    assert (out / "explain.json").is_file()


def test_adapt_accepts_a_method_by_its_class_path(tmp_path: Path) -> None:
    images, labels = write_labelled_rooms(tmp_path, kind="depth", count=3, size=32)
    folders = ["--images", str(images), "--labels", str(labels), "--kind", "depth"]
    out = tmp_path / "toy.safetensors"
    command = ["adapt", *folders, "--method", f"{NAME}.PixelLinear", "--steps", "3"]
    command += ["--backbone", "tiny"]
    assert main([*command, "--out", str(out), "--device", "cpu"]) == 0
    model = diffsight.load(out, trusted=[NAME])
    assert type(model.method).__name__ == "PixelLinear"
    assert model.info["chosen"] == f"{NAME}.PixelLinear"


def test_benchmark_compares_the_method_on_the_custom_data(
    tmp_path: Path, pipeline_folder: Path
) -> None:
    from toy_extension import Brightness

    from diffsight.backbones import BackboneSource

    task = BenchmarkTask(
        "brightness", Brightness(), train=_gradients(count=6), test=_gradients(count=3, seed=2)
    )
    source = BenchmarkSource("gradients", {task.name: task})
    methods = benchmark_methods((f"{NAME}.PixelLinear", "constant"), trusted=(NAME,))
    benchmark(
        source,
        tasks=["brightness"],
        methods=methods,
        pretrained=BackboneSource(pipeline_folder),
        out=tmp_path,
        repeats=1,
        settings=Settings(shots=3, steps=30),
    )
    rows = [json.loads(path.read_text()) for path in tmp_path.glob("**/rep*.json")]
    scores = {row["method"]: row["score"] for row in rows}
    assert scores[f"{NAME}.PixelLinear"] < scores["constant"]


def _gradients(**options: int):
    from toy_extension import Gradients

    return Gradients(**options)
