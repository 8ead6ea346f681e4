"""An explanation is of the same pass as a prediction, and its numbers are that pass's."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.adaptation.test_adapt import pictures

from diffsight.adaptation.adapt import adapt
from diffsight.errors import InputError
from diffsight.heads import Codebook
from diffsight.hub.task_file import Base, Task
from diffsight.inference import Plan, Predictor
from diffsight.inference.explain import NO_CODEBOOK, explain, figures, write_explanation
from diffsight.methods import FewShot
from diffsight.ops.resize import resized_image
from diffsight.types import Draws, Inputs

KINDS = (
    ("depth", "concepts"),
    ("scalar", "features"),
    ("segmentation", "concepts"),
    ("normals", "concepts"),
    ("vector", "features"),
)


def learn(folder: Path, base: Base, kind: str, method: str) -> Task:
    pictures(folder, kind)
    labels = folder / ("images" if kind == "vector" else "labels")
    return adapt(
        folder / "images",
        labels,
        kind=kind,
        backbone=base,
        method=method,
        steps=1,
        bins=None if kind == "segmentation" else 7,
        shots=2,
        short_side=32,
    )


@pytest.fixture(scope="module")
def base(pipeline_folder: Path) -> Base:
    return Base.load(pipeline_folder)


@pytest.fixture(scope="module")
def tasks(base: Base, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Task]:
    return {
        kind: learn(tmp_path_factory.mktemp(kind), base, kind, method) for kind, method in KINDS
    }


def image(height: int = 32, width: int = 48) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS])
def test_figures_are_those_of_a_direct_pass(kind: str, tasks: dict[str, Task]) -> None:
    task, photo = tasks[kind], image(60, 90)
    about = figures(task, explain(task, photo))
    with torch.no_grad():
        pixels = resized_image(photo[None].float() / 255, (32, 48))
        maps = task.model(Inputs(pixels), draws=Draws((0,))).maps[0].double()
    assert about["size"] == [48, 32]
    classes = about["classes"]
    assert len(classes) == task.model.task.num_outputs
    for key, value in {
        "share": maps.mean(dim=(1, 2)),
        "spatial_std": maps.flatten(1).std(dim=1, correction=0),
        "largest": maps.flatten(1).max(dim=1).values,
    }.items():
        assert [row[key] for row in classes] == pytest.approx(value.tolist(), rel=1e-3, abs=1e-6)
    assert sum(row["share"] for row in classes) == pytest.approx(1, abs=1e-5)
    assert sum(row["answered"] for row in classes) == pytest.approx(1, abs=1e-5)
    entropy = -(maps * maps.log()).sum(dim=0).mean()
    assert about["entropy_nats"]["mean"] == pytest.approx(float(entropy), rel=1e-4)
    assert about["entropy_nats"]["uniform"] == pytest.approx(math.log(len(classes)), rel=1e-6)


def test_classes_are_answered_as_predicted(tasks: dict[str, Task]) -> None:
    task, photo = tasks["segmentation"], image()
    found = Predictor(task.model, Plan(short_side=32)).one(photo)
    classes = figures(task, explain(task, photo))["classes"]
    assert [row["name"] for row in classes] == ["class 2", "class 7"]
    shares = [float((found.ids == number).double().mean()) for number in (2, 7)]
    assert [row["answered"] for row in classes] == pytest.approx(shares)
    assert "value" not in classes[0]


def test_values_fall_into_their_bins(tasks: dict[str, Task]) -> None:
    task, photo = tasks["depth"], image()
    values = Predictor(task.model, Plan(short_side=32)).one(photo).depth_m
    classes = figures(task, explain(task, photo))["classes"]
    inner = torch.tensor([row["edges"][0] for row in classes[1:]])
    counts = torch.bincount(torch.bucketize(values.flatten(), inner), minlength=len(classes))
    expected = (counts / values.numel()).tolist()
    assert [row["answered"] for row in classes] == pytest.approx(expected, abs=1e-3)
    assert all(row["name"] == f"{row['value'][0]:.3g} m" for row in classes)


def test_the_codebook_is_mixed_as_in_the_pass(tasks: dict[str, Task]) -> None:
    task, photo = tasks["depth"], image()
    found = explain(task, photo)
    assert found.weights is not None
    assert found.tables is not None
    assert found.tables.shape == (10, 7, 1)
    assert float(found.weights.sum()) == pytest.approx(1)
    mixed = torch.einsum("k,knd->nd", found.weights, found.tables)
    torch.testing.assert_close(found.values, mixed)
    assert not torch.equal(found.values, found.centres)
    with torch.no_grad():
        raw = task.model(Inputs(photo[None].float() / 255), draws=Draws((0,)))
    value = torch.einsum("nhw,nd->dhw", found.probability, mixed)
    torch.testing.assert_close(value, raw.auxiliary["value"][0])


@pytest.mark.parametrize("size", [0, 1])
def test_small_codebooks(size: int, tasks: dict[str, Task], tmp_path: Path) -> None:
    task = copy.deepcopy(tasks["depth"])
    codec = task.model.task.codec
    small = Codebook(codec.centres, torch.tensor([1.0]), size=size)
    task.model.method.codebook = small
    found = explain(task, image())
    assert found.weights is None
    assert (found.tables is None) == (size == 0)
    about = write_explanation(task, found, tmp_path / "out", {})
    assert [row["value"][0] for row in about["classes"]] == pytest.approx(
        small(None, 1)[0, :, 0].tolist(), rel=1e-5
    )
    assert (tmp_path / "out" / "codebook.png").is_file() == (size == 1)
    assert about["notes"] == ([NO_CODEBOOK] if size == 0 else [])


def test_what_is_written(tasks: dict[str, Task], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    about = write_explanation(
        tasks["depth"], explain(tasks["depth"], image()), out, {"image": "a.png"}
    )
    names = {"concepts.png", "codebook.png", "bins.png", "explain.json"}
    assert {path.name for path in out.iterdir()} == names
    assert json.loads((out / "explain.json").read_text()) == about
    assert about["image"] == "a.png"
    assert sum(about["mixing_weights"]) == pytest.approx(1, abs=1e-5)
    assert about["notes"] == []
    about = write_explanation(
        tasks["segmentation"], explain(tasks["segmentation"], image()), out, {}
    )
    assert {path.name for path in out.iterdir()} == names - {"codebook.png"}
    assert about["mixing_weights"] is None
    assert about["notes"] == [NO_CODEBOOK]
    for name in about["pictures"].values():
        with Image.open(out / name) as picture:
            assert picture.mode == "RGB"


def test_what_cannot_be_used(
    tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tasks["segmentation"]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file.out: .* choose another --out"):
        write_explanation(task, explain(task, image()), tmp_path / "file" / "out", {})

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FewShot, "encode", full)
    with pytest.raises(
        InputError, match=r"cpu has not enough memory for 48 x 32 px: choose a task"
    ):
        explain(task, image())
