"""Explanations: figures against a direct forward pass, files, and errors."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.support import noise
from tests.support_inference import Brightness, Logits
from tests.support_inference import model as model_of
from torch.nn import functional

from diffsight.backbones import BackboneSource
from diffsight.errors import InputError
from diffsight.inference import Plan, Predictor
from diffsight.inference import explain as explanation
from diffsight.inference.explain import NO_CODEBOOK, explain, summarise, write_explanation
from diffsight.inference.explain_files import list_explanation
from diffsight.inference.write import OverwriteError, find_images
from diffsight.methods import VPD, FeatureHead, FewShot
from diffsight.model import DenseModel
from diffsight.ops.resize import resize_image
from diffsight.tasks import AbstractTask, Depth, Normals, Referring, Segmentation, Values
from diffsight.types import Draws, Inputs

KINDS = {
    "depth": FewShot,
    "scalar": FeatureHead,
    "segmentation": FewShot,
    "normals": FewShot,
    "vector": FeatureHead,
}


def task_of(kind: str) -> AbstractTask:
    match kind:
        case "depth":
            return Depth(bins=7).fitted(noise(500, 1).abs() + 0.5)
        case "scalar":
            return Values(bins=7, unit="K").fitted(noise(500, 1))
        case "segmentation":
            return Segmentation(["class 2", "class 7"], ids=(2, 7))
        case "normals":
            return Normals(bins=7).fitted(functional.normalize(noise(500, 3), dim=1))
    return Values(channels=3, bins=7).fitted(noise(500, 3))


def build(kind: str, source: BackboneSource, **options) -> DenseModel:
    torch.manual_seed(0)
    method = KINDS[kind].from_backbone(source, **options)
    dense = DenseModel(task=task_of(kind), method=method).eval()
    dense.info |= {"short_side": 32, "kind": kind}
    return dense


@pytest.fixture(scope="module")
def source(pipeline_folder: Path) -> BackboneSource:
    return BackboneSource(pipeline_folder)


@pytest.fixture(scope="module")
def models(source: BackboneSource) -> dict[str, DenseModel]:
    return {kind: build(kind, source) for kind in KINDS}


def image(height: int = 32, width: int = 48) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
def test_figures_agree_with_a_direct_pass(kind: str, models: dict[str, DenseModel]) -> None:
    dense, photo = models[kind], image(60, 90)
    about = summarise(explain(dense, photo))
    with torch.no_grad():
        pixels = resize_image(photo[None].float() / 255, (32, 48))
        output = dense(Inputs(pixels), draws=Draws((0,)))
        maps = output.class_probabilities()[0].double()
    assert about["kind"] == kind
    assert about["size"] == [48, 32]
    classes = about["classes"]
    assert len(classes) == dense.task.outputs[0].channels
    for key, value in {
        "weight": maps.mean(dim=(1, 2)),
        "spatial_std": maps.flatten(1).std(dim=1, correction=0),
        "largest": maps.flatten(1).max(dim=1).values,
    }.items():
        assert [row[key] for row in classes] == pytest.approx(value.tolist(), rel=1e-3, abs=1e-6)
    assert sum(row["weight"] for row in classes) == pytest.approx(1, abs=1e-5)
    assert sum(row["predicted"] for row in classes) == pytest.approx(1, abs=1e-5)
    entropy = -(maps * maps.log()).sum(dim=0).mean()
    assert about["entropy_nats"]["mean"] == pytest.approx(float(entropy), rel=1e-4)
    assert about["entropy_nats"]["uniform"] == pytest.approx(math.log(len(classes)), rel=1e-6)


def test_the_figure_predicted_is_the_fraction_of_pixels_of_a_class(
    models: dict[str, DenseModel],
) -> None:
    dense, photo = models["segmentation"], image()
    prediction = Predictor(dense, Plan(short_side=32)).one(photo)
    classes = summarise(explain(dense, photo))["classes"]
    assert [row["class"] for row in classes] == ["class 2", "class 7"]
    fractions = [float((prediction.ids == number).double().mean()) for number in (2, 7)]
    assert [row["predicted"] for row in classes] == pytest.approx(fractions)
    assert "value" not in classes[0]


def test_the_figure_predicted_is_the_fraction_of_pixels_in_a_bin(
    models: dict[str, DenseModel],
) -> None:
    dense, photo = models["depth"], image()
    values = Predictor(dense, Plan(short_side=32)).one(photo).depth_m
    classes = summarise(explain(dense, photo))["classes"]
    inner = torch.tensor([row["edges"][0] for row in classes[1:]])
    counts = torch.bincount(torch.bucketize(values.flatten(), inner), minlength=len(classes))
    expected = (counts / values.numel()).tolist()
    assert [row["predicted"] for row in classes] == pytest.approx(expected, abs=1e-3)
    assert all(row["class"] == f"{row['value'][0]:.3g} m" for row in classes)


def test_class_values_are_the_tables_of_the_codebook_times_their_weights(
    models: dict[str, DenseModel],
) -> None:
    dense, photo = models["depth"], image()
    result = explain(dense, photo)
    assert result.classes is not None
    assert result.weights is not None
    assert result.tables is not None
    assert result.tables.shape == (10, 7, 1)
    assert float(result.weights.sum()) == pytest.approx(1)
    mixed = torch.einsum("k,knd->nd", result.weights, result.tables)
    torch.testing.assert_close(result.classes.values, mixed)
    assert not torch.equal(result.classes.values, result.classes.centres)
    with torch.no_grad():
        output = dense(Inputs(photo[None].float() / 255), draws=Draws((0,)))
    value = torch.einsum("nhw,nd->dhw", result.classes.probability, mixed)
    torch.testing.assert_close(value, output.value[0])


@pytest.mark.parametrize("size", [0, 1])
def test_codebooks_with_at_most_one_table_have_no_weights(
    size: int, source: BackboneSource, tmp_path: Path
) -> None:
    dense = build("depth", source, codebook=size)
    result = explain(dense, image())
    assert result.weights is None
    assert (result.tables is None) == (size == 0)
    about = write_explanation(result, tmp_path / "out", {})
    with torch.no_grad():
        values = dense.method.codebook(None, 1)[0, :, 0].tolist()
    assert [row["value"][0] for row in about["classes"]] == pytest.approx(values, rel=1e-5)
    assert (tmp_path / "out" / "codebook.png").is_file() == (size == 1)
    assert about["notes"] == ([NO_CODEBOOK] if size == 0 else [])


def test_files_are_written_with_and_without_a_codebook_and_old_ones_deleted(
    models: dict[str, DenseModel], tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "out"
    about = write_explanation(explain(models["depth"], image()), out, {"image": "a.png"})
    names = {"concepts.png", "codebook.png", "bins.png", "explain.json"}
    assert {path.name for path in out.iterdir()} == names
    assert json.loads((out / "explain.json").read_text()) == about
    assert about["image"] == "a.png"
    assert sum(about["mixing_weights"]) == pytest.approx(1, abs=1e-5)
    assert about["notes"] == []
    about = write_explanation(explain(models["segmentation"], image()), out, {})
    assert {path.name for path in out.iterdir()} == names - {"codebook.png"}
    assert about["mixing_weights"] is None
    assert about["notes"] == [NO_CODEBOOK]
    for name in about["pictures"].values():
        with Image.open(out / name) as picture:
            assert picture.mode == "RGB"


def test_other_files_in_the_folder_are_neither_deleted_nor_replaced(
    models: dict[str, DenseModel], tmp_path: Path
) -> None:
    own = {name: tmp_path / name for name in ("maps.png", "steps.png", "codebook.png")}
    for path in own.values():
        path.write_text("mine")
    result = explain(models["segmentation"], image())  # it writes none of these names
    for _ in range(2):
        write_explanation(result, tmp_path, {})
    pictures = {"concepts.png", "bins.png"}
    assert {path.name for path in tmp_path.iterdir()} == {*own, *pictures, "explain.json"}
    assert list_explanation(tmp_path) == {*pictures, "explain.json"}
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OverwriteError, match=r"codebook\.png: exists already and is not of an ear"):
        write_explanation(explain(models["depth"], image()), tmp_path, {})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert all(path.read_text() == "mine" for path in own.values())


def test_the_json_file_of_another_program_is_not_replaced(tmp_path: Path) -> None:
    result = explain(model_of(Brightness), image())
    for text in ("mine", "{}", '{"pictures": {"maps": "maps.png"}}'):
        (tmp_path / "explain.json").write_text(text)
        with pytest.raises(OverwriteError, match=r"explain\.json: exists already"):
            write_explanation(result, tmp_path, {})
        assert (tmp_path / "explain.json").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["explain.json"]


@pytest.mark.parametrize("calls", [0, 1])
def test_files_of_a_killed_process_are_replaced_and_no_images(
    calls: int,
    models: dict[str, DenseModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_explanation(explain(model_of(Brightness), image()), tmp_path, {})  # maps.png
    result, left = explain(models["segmentation"], image()), iter(range(calls))
    replacing = explanation.replacing

    def killed(path: Path) -> Any:
        if path.suffix == ".png" and next(left, None) is None:
            raise SystemExit  # such as SIGKILL: nothing is cleaned up
        return replacing(path)

    with monkeypatch.context() as patch:
        patch.setattr(explanation, "replacing", killed)
        with pytest.raises(SystemExit):
            write_explanation(result, tmp_path, {})
    with pytest.raises(InputError, match="no images"):
        find_images([str(tmp_path)])
    write_explanation(result, tmp_path, {})
    names = {"concepts.png", "bins.png", "explain.json"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_full_disk_leaves_no_incomplete_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = explain(model_of(Brightness), image())
    write_explanation(result, tmp_path, {})

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_explanation(result, tmp_path, {})
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_classes_is_explained_by_attention_maps(
    source: BackboneSource, tmp_path: Path
) -> None:
    dense = DenseModel(task=Depth(), method=VPD.from_backbone(source)).eval()
    dense.info["short_side"] = 64
    result = explain(dense, image(64, 80))
    assert result.classes is None
    assert {one.shape for one in result.maps.values()} == {(64, 80)}
    about = write_explanation(result, tmp_path / "out", {})
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"maps.png", "explain.json"}
    assert "classes" not in about
    assert (about["method"], about["unit"]) == ("VPD", "m")
    assert len(about["maps"]) == len(result.maps)
    row = about["maps"][0]
    assert row["name"] == "token 1"
    assert row["mean"] == pytest.approx(float(result.maps["token 1"].mean()), rel=1e-5)


def test_a_method_without_attention_maps_still_writes_maps_png(tmp_path: Path) -> None:
    about = write_explanation(explain(model_of(Brightness), image()), tmp_path, {})
    assert about["pictures"] == {"maps": "maps.png"}
    assert about["notes"] == []
    with pytest.raises(InputError, match="takes no prompt"):
        explain(model_of(Brightness), image(), "kitchen")


def test_logits_are_explained_as_probabilities(tmp_path: Path) -> None:
    dense = DenseModel(task=Segmentation(["a", "b", "c"]), method=Logits).eval()
    about = write_explanation(explain(dense, image()), tmp_path, {})
    assert sum(row["weight"] for row in about["classes"]) == pytest.approx(1, abs=1e-5)
    assert [row["class"] for row in about["classes"]] == ["a", "b", "c"]


def test_the_mask_of_a_sentence_is_explained_as_two_classes(source: BackboneSource) -> None:
    dense = DenseModel(task=Referring(), method=VPD.from_backbone(source)).eval()
    result = explain(dense, image(64, 64))
    assert result.classes is not None
    assert float(result.classes.predicted.sum()) == pytest.approx(1)
    assert result.picture.shape == (3, 64, 64)


def test_errors_of_disk_and_memory_include_a_repair(
    models: dict[str, DenseModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = models["segmentation"]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file.out: .* choose another --out"):
        write_explanation(explain(dense, image()), tmp_path / "file" / "out", {})

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FewShot, "encode", full)
    message = r"cpu has not enough memory for 48 x 32 px: choose a model"
    with pytest.raises(InputError, match=message):
        explain(dense, image())
