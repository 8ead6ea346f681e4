"""Exported files compute the numbers of the predictor, and a certificate says so."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tests.support import images
from tests.support_cli import photo
from tests.support_disk import small_disk
from tests.support_export import (
    MODELS,
    Baked,
    Different,
    Noisy,
    Unconvertible,
    Untraceable,
    binned_depth,
    toy,
)
from tests.support_inference import Logits, Probabilities, pose_model
from torch import Tensor

from diffsight.choices import EXPORT_SUFFIXES
from diffsight.errors import InputError, MissingExtraError
from diffsight.inference import Predictor, onnx_file
from diffsight.inference.certificate import CertificateError, Difference, certify, other_sizes
from diffsight.inference.export import DESCRIPTION, export_model
from diffsight.inference.export_graph import Graph, predict_maps, trace
from diffsight.tasks import BEV, Normals, Referring, Segmentation

NAMES = ("wall", "floor", "door")


def run(path: Path, image: Tensor) -> list[np.ndarray]:
    """Return the outputs of a file in ONNX Runtime, without diffsight."""
    session = onnxruntime.InferenceSession(path)
    return session.run(None, {"image": image.numpy()})


def assert_close(array: Any, expected: Tensor) -> None:
    torch.testing.assert_close(torch.as_tensor(array), expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def classes_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an exported model of three classes, with its description beside it."""
    model = toy(Logits, Segmentation(NAMES))
    model.info["license"] = "cc0-1.0"
    path = tmp_path_factory.mktemp("classes") / "classes.onnx"
    export_model(model, path, size=(12, 16))
    return path


@pytest.fixture(scope="module")
def noisy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an exported model that adds noise to images of up to 32 x 32 px."""
    path = tmp_path_factory.mktemp("noisy") / "noisy.onnx"
    export_model(toy(Noisy), path, size=(8, 12), max_side=32)
    return path


def record_of(path: Path) -> dict[str, Any]:
    """Return the description beside a file."""
    return json.loads(path.with_name(f"{path.name}.json").read_text())


def test_a_file_gives_the_classes_of_the_predictor_for_other_sizes_and_batches(
    classes_file: Path,
) -> None:
    model, image = toy(Logits, Segmentation(NAMES)), images(3, 10, 21)
    (probabilities,) = run(classes_file, image)
    assert probabilities.shape == (3, 3, 10, 21)
    for row, picture in zip(probabilities, image, strict=True):
        prediction: Any = Predictor(model).one(picture)
        assert np.array_equal(row.argmax(axis=0), prediction.ids.numpy())
        assert_close(row.max(axis=0), prediction.confidence)


def test_the_certificate_lies_beside_the_file(classes_file: Path) -> None:
    record, name = record_of(classes_file), classes_file.name
    assert {one.name for one in classes_file.parent.iterdir()} == {name, f"{name}.json"}
    assert record["sha256"] == {name: hashlib.sha256(classes_file.read_bytes()).hexdigest()}
    certificate = record["certificate"]
    assert certificate["images"] == 10
    assert len(certificate["sizes"]) == 3
    assert certificate["traced_size"] not in certificate["sizes"]
    assert certificate["largest_difference"]["probabilities"]["relative"] <= 1e-4
    assert record["model"]["license"] == "cc0-1.0"
    assert record["versions"]["onnxruntime"] == onnxruntime.__version__
    (entry,) = onnx.load(classes_file).metadata_props
    assert json.loads(entry.value)["classes"] == list(NAMES)


def test_the_noise_of_every_size_and_image_is_that_of_the_predictor(noisy_file: Path) -> None:
    model = toy(Noisy)
    assert record_of(noisy_file)["input"]["max_pixels"] == 32 * 32
    for size in ((4 * 5, 4 * 2), (32, 32)):
        image = images(2, *size)
        (values,) = run(noisy_file, image)
        for row, picture in zip(values, image, strict=True):
            prediction: Any = Predictor(model).one(picture)
            assert_close(row[0], prediction.depth_m)


@pytest.mark.parametrize("max_side", [8, 15])  # 15 x 15 is no multiple of 16
def test_the_stored_noise_suffices_for_the_certificate_in_whole_blocks(max_side: int) -> None:
    """PyTorch draws 16 numbers at once; those of an incomplete block are others."""
    traced = trace(toy(Noisy), (8, 8), max_side, "m")
    assert traced.is_dynamic
    assert traced.max_pixels is not None
    assert traced.max_pixels >= (8 + 4) * (8 + 2 * 4)
    assert len(traced.program.state_dict["noise3"]) % 16 == 0


def test_an_image_with_more_pixels_than_stored_noise_is_refused_by_the_file(
    noisy_file: Path,
) -> None:
    with pytest.raises(Exception, match="Reshape"):
        run(noisy_file, images(1, 40, 40))


def test_a_distribution_has_metres_and_their_standard_deviation() -> None:
    model, image = toy(Probabilities, binned_depth()), images(1, 9, 14)
    graph = Graph(model, image, 9 * 14)
    assert graph.outputs == ("values", "std")
    values, std = graph(image)
    prediction: Any = Predictor(model).one(image[0])
    assert_close(values[0, 0].detach(), prediction.depth_m)
    assert_close(std[0, 0].detach(), prediction.uncertainty_m)


def test_normals_have_length_one_as_in_predictions() -> None:
    model, image = toy(Noisy, Normals()), images(1, 16, 8)
    (values,) = Graph(model, image, 16 * 8)(image)
    prediction: Any = Predictor(model).one(image[0])
    assert_close(values[0].detach(), prediction.to_label())


def test_joints_are_exported_as_heatmaps_of_crops_of_one_size(tmp_path: Path) -> None:
    model, path = pose_model().eval(), tmp_path / "pose.pt2"
    record = export_model(model, path, format="torch")
    assert record["input"]["size"] == [64, 64]
    assert record["certificate"]["sizes"] == [[64, 64]]
    assert list(record["outputs"]) == ["heatmaps"]
    assert record["stride"] == 2
    with pytest.raises(InputError, match=r"m: reads crops of 64 x 64 px"):
        export_model(model, path, format="torch", size=(64, 32), source="m")


def test_a_torch_file_runs_without_diffsight(tmp_path: Path) -> None:
    model, path = toy(Noisy), tmp_path / "noisy.pt2"
    record = export_model(model, path, format="torch", size=(8, 12), max_side=32)
    extra = {DESCRIPTION: ""}
    graph: Any = torch.export.load(path, extra_files=extra).module()
    image = images(3, 16, 20)
    (values,) = graph(image)
    assert_close(values.detach(), predict_maps(model, image)["values"])
    assert json.loads(extra[DESCRIPTION])["input"] == record["input"]
    with pytest.raises((AssertionError, RuntimeError)):  # there is noise for 32 x 32 px
        graph(images(1, 64, 64))


def test_the_images_of_the_certificate_can_be_chosen(tmp_path: Path) -> None:
    chosen = [photo(tmp_path / "a.png"), photo(tmp_path / "b.png")]
    record = export_model(
        toy(Noisy), tmp_path / "x.pt2", format="torch", size=(8, 8), images=chosen
    )
    assert record["certificate"]["images"] == 2


def test_images_that_cannot_be_read_are_logged_and_replaced_by_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = [photo(tmp_path / f"{i:02}.png") for i in range(13)]
    chosen[0].write_bytes(b"damaged")
    chosen[5].unlink()
    chosen[12].write_bytes(b"not needed")
    path = tmp_path / "x.pt2"
    record = export_model(toy(Noisy), path, format="torch", size=(8, 8), images=chosen)
    assert record["certificate"]["images"] == 10
    lines = [one.getMessage() for one in caplog.records if "skipped" in one.getMessage()]
    assert [line.startswith(f"skipped: {chosen[i]}") for line, i in zip(lines, (0, 5), strict=True)]
    with pytest.raises(InputError, match="none of the 2 images of the certificate can be read"):
        export_model(toy(Noisy), path, format="torch", size=(8, 8), images=chosen[::5][:2])


def test_the_three_other_sizes_differ_from_the_traced_one() -> None:
    assert other_sizes((64, 96), 32) == [(96, 96), (64, 128), (64, 160)]
    assert other_sizes((512, 512), 64) == [(576, 512), (512, 576), (448, 640)]


def test_a_perturbed_weight_fails_the_certificate(tmp_path: Path) -> None:
    model = toy(Logits, Segmentation(NAMES))
    traced = trace(toy(Logits, Segmentation(NAMES)), (12, 16), 32, "m")
    graph: Any = traced.program.module()

    def run_file(image: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [one.numpy() for one in graph(torch.from_numpy(image))]

    pictures = list((255 * images(10, 20, 24)).byte())
    assert certify(model, run_file, traced, pictures, 1e-4)["holds"]
    with torch.no_grad():
        next(graph.parameters()).view(-1)[0].mul_(1.01)
    assert not certify(model, run_file, traced, pictures, 1e-4)["holds"]


def test_a_file_with_other_numbers_is_not_written_and_an_older_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.pt2"
    path.write_text("older")
    with pytest.raises(CertificateError, match=r"x.pt2: not written: its output values differs"):
        export_model(toy(Different), path, format="torch", size=(8, 8))
    assert path.read_text() == "older"
    assert [one.name for one in tmp_path.iterdir()] == ["x.pt2"]
    record = export_model(toy(Different), path, format="torch", size=(8, 8), tolerance=0.05)
    assert record["certificate"]["largest_difference"]["values"]["relative"] > 0.005


def test_differences_count_numbers_that_are_not_finite() -> None:
    ours = torch.tensor([1.0, 4.0, torch.nan, torch.inf])[None, None, None]
    same, other = Difference(), Difference()
    same.add(ours, ours.clone())
    assert same == Difference(0.0, 0.0)
    other.add(ours, torch.tensor([1.5, 4.0, torch.nan, torch.inf])[None, None, None])
    assert other.absolute == 0.5
    broken = Difference()
    broken.add(ours, torch.tensor([torch.nan, 4.0, torch.nan, torch.inf])[None, None, None])
    assert broken.relative == torch.inf


def test_a_standard_deviation_is_compared_as_a_variance_relative_to_the_values() -> None:
    std, values = torch.full((1, 1, 1, 2), 1e-3), torch.full((1, 1, 1, 2), 10.0)
    small, large = Difference(), Difference()
    small.add(std, std * 1.5, values)
    assert small.absolute == pytest.approx(5e-4)
    assert small.relative == pytest.approx(1.25e-6, rel=1e-3)
    large.add(50 * std, 100 * std, values)
    assert large.relative > 1e-4


def test_the_relative_difference_is_that_of_each_image() -> None:
    ours = torch.tensor([100.0, 1.0]).reshape(2, 1, 1, 1)
    difference = Difference()
    difference.add(ours, ours + 0.1)
    assert difference.relative == pytest.approx(0.1, rel=1e-5)


def test_a_graph_that_depends_on_the_size_is_exported_for_one_size(tmp_path: Path) -> None:
    record = export_model(toy(Baked), tmp_path / "x.pt2", format="torch", size=(8, 12))
    assert record["input"]["size"] == [8, 12]
    assert record["certificate"]["sizes"] == [[8, 12]]


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (lambda: toy(Untraceable), r"^m: Untraceable cannot be exported \(.*\)$"),
        (
            lambda: toy(type("Reader", (Logits,), {"accepts_prompt": True}), Referring()),
            r"^m: reads a sentence with every image, and a text encoder .*$",
        ),
        (
            lambda: toy(type("Maps", (Logits,), {"output_kinds": ("masks",)}), BEV()),
            r"^m: reads the cameras and points of a rig.*$",
        ),
    ],
)
def test_a_model_that_cannot_be_exported_says_why_in_one_line(
    tmp_path: Path, build: Any, line: str
) -> None:
    with pytest.raises(InputError, match=line):
        export_model(build(), tmp_path / "x.pt2", format="torch", size=(8, 8), source="m")
    assert not list(tmp_path.iterdir())


def test_an_operation_that_onnx_lacks_is_named_in_one_line(tmp_path: Path) -> None:
    line = r"^x.onnx: the model cannot be converted to ONNX \(.*aten.clamp.*\): try --format torch$"
    with pytest.raises(InputError, match=line):
        export_model(toy(Unconvertible), tmp_path / "x.onnx", size=(8, 8))
    assert not list(tmp_path.iterdir())


def test_a_size_that_is_no_multiple_is_refused(tmp_path: Path) -> None:
    line = r"^--size 10 12: m reads images whose sides are multiples of 4 px: give such numbers"
    with pytest.raises(InputError, match=line):
        export_model(toy(Noisy), tmp_path / "x.onnx", size=(10, 12), source="m")


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    for name in ("x.onnx", "y.onnx.json"):
        (tmp_path / name).mkdir()
        with pytest.raises(InputError, match=f"{name}: is a folder: give the file another name$"):
            export_model(toy(Noisy), tmp_path / f"{name[0]}.onnx", size=(8, 8))
    assert len(list(tmp_path.iterdir())) == 2


def test_weights_of_an_earlier_file_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    onnx_file.weights_of(path).write_bytes(b"of a larger model")
    export_model(toy(Noisy), path, size=(8, 8))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["x.onnx", "x.onnx.json"]


def test_an_error_of_onnx_runtime_is_one_line(noisy_file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "x.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(InputError, match=r"^x.onnx: ONNX Runtime cannot run it \(.*\): give"):
        onnx_file.OnnxFile(broken)
    with pytest.raises(InputError, match=r"^noisy.onnx: ONNX Runtime cannot run it \(.*Reshape"):
        onnx_file.OnnxFile(noisy_file)(images(1, 40, 40).numpy())


@pytest.mark.parametrize("format", EXPORT_SUFFIXES)
def test_a_full_disk_is_one_line_and_leaves_nothing(format: Any, tmp_path: Path) -> None:
    path = tmp_path / f"x{EXPORT_SUFFIXES[format]}"
    line = rf"^{re.escape(str(path))}: cannot be written \(File too large\); choose a folder"
    with pytest.raises(InputError, match=line), small_disk():
        export_model(toy(Noisy), path, format=format, size=(8, 8), max_side=256)
    assert not list(tmp_path.iterdir())


def test_a_name_with_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"x.onnx: give the file a name that ends in .pt2, or --format onnx$"
    ):
        export_model(toy(Noisy), tmp_path / "x.onnx", format="torch", size=(8, 8))


def test_a_missing_extra_gives_the_command_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "LIBRARIES", ("onnx", "no_such_library"))
    line = r"^no_such_library is not installed: pip install 'diffsight\[export\]'$"
    with pytest.raises(MissingExtraError, match=line):
        export_model(toy(Noisy), tmp_path / "x.onnx", size=(8, 8))


def test_the_default_size_is_that_of_the_training_images(tmp_path: Path) -> None:
    model = toy(Noisy)
    model.info["short_side"] = 10
    record = export_model(model, tmp_path / "x.pt2", format="torch")
    assert record["certificate"]["traced_size"] == [12, 12]
    assert record["input"]["short_side"] == 10


@pytest.mark.parametrize("name", MODELS)
def test_what_a_graph_computes_instead_gives_the_numbers_of_the_predictor(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph is not traced here, which takes a minute: see the slow test below."""
    model = MODELS[name]().eval()
    image = images(2, 128, 192)
    expected = predict_maps(model, image)
    graph = Graph(model, image, 128 * 256)
    with torch.inference_mode(), monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_exporting", lambda: True)
        maps = graph(image)
    for key, found in zip(graph.outputs, maps, strict=True):
        difference = Difference()
        difference.add(expected[key], found, expected["values"] if key == "std" else None)
        # the rounding of a variance is relative to a squared value, 100 times the scale used here
        assert difference.relative <= (1e-4 if key == "std" else 1e-5), key


@pytest.mark.slow
@pytest.mark.parametrize("name", ["few_shot on tiny", "vpd depth", "ddp depth"])
def test_small_diffusion_models_are_exported_for_any_size(name: str, tmp_path: Path) -> None:
    """``benchmarks/export_models.py`` exports the others too, which takes minutes for each."""
    record = export_model(MODELS[name]().eval(), tmp_path / "model.onnx", size=(128, 192))
    assert record["input"]["size"] is None
    for difference in record["certificate"]["largest_difference"].values():
        assert difference["relative"] <= 1e-4
