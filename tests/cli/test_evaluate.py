"""``diffsight evaluate``: scores of models and of stored predictions."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tests.support_inference import Probabilities
from tests.support_models import tiny

from diffsight import cli
from diffsight.hub import read_config, save, write_baselines
from diffsight.model import DenseModel
from diffsight.rooms import ReferringRooms, Rooms
from diffsight.tasks import Segmentation


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Return a folder of three images in two sizes, with depth in millimetres."""
    root = tmp_path / "pairs"
    rng = np.random.default_rng(0)
    for kind in ("images", "depth"):
        (root / kind).mkdir(parents=True)
    for name, size in (("a", (32, 40)), ("b", (40, 32)), ("c", (32, 40))):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{name}.png")
        counts = rng.integers(1000, 6000, size).astype(np.uint16)
        Image.fromarray(counts).save(root / "depth" / f"{name}.png")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tiny(), tmp_path / "run" / "model")


def run(folder: Path, *arguments: str | Path) -> int:
    rest = ["--model", str(folder), "--device", "cpu"]
    rest += [] if "--protocol" in arguments else ["--protocol", "rooms-v1"]
    return cli.main(["evaluate", *rest, *map(str, arguments)])


def test_the_table_has_scores_baselines_protocol_and_plan(
    folder: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "--data", "Folder", f"root={pairs}", "--windows", "2") == 0
    out = capsys.readouterr().out
    for text in ("abs_rel", "rmse", "d1", "model", "constant median (oracle)", "mean map (oracle)"):
        assert text in out
    assert "protocol  rooms-v1 [" in out
    assert "plan      own size, 2 square windows, no flip" in out
    assert "pairs: 3 images" in out
    assert "computed from the evaluated labels" in out


def test_the_json_report_is_printed_written_and_recorded(
    folder: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "reports" / "r.json"
    data = ["--data", "Folder", f"root={pairs}", "--limit", "2"]
    assert run(folder, *data, "--json", "--out", file, "--record") == 0
    report = json.loads(capsys.readouterr().out)
    assert json.loads(file.read_text()) == report
    assert report["images"] == 2
    assert report["model"]["fingerprint"] == read_config(folder)["fingerprint"]
    assert set(report["metrics"]) >= {"abs_rel", "rmse", "d1"}
    assert set(report["baselines"]) == {"constant median (oracle)", "mean map (oracle)"}
    (stored,) = read_config(folder)["info"]["results"]
    assert stored["metrics"] == report["metrics"]


def test_scores_are_printed_even_if_the_model_cannot_be_changed(
    folder: Path, pairs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(folder))

    monkeypatch.setattr("diffsight.hub.record", refuse)
    assert run(folder, "--data", "Folder", f"root={pairs}", "--limit", "1", "--record") == 1
    captured = capsys.readouterr()
    assert "protocol  rooms-v1 [" in captured.out
    assert "Read-only file system" in captured.err


def test_a_model_that_cannot_be_changed_is_refused_before_the_evaluation(
    folder: Path, pairs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("diffsight.cli.options.tempfile.TemporaryFile", refuse)
    assert run(folder, "--data", "Folder", f"root={pairs}", "--record") == 2
    captured = capsys.readouterr()
    assert f"{folder}: cannot be changed: leave --record out" in captured.err
    assert not captured.out


def test_stored_baselines_of_the_training_labels_are_used(
    folder: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {"mean map": torch.full((4, 5), 3.0), "constant median": torch.full((1, 1), 3.0)}
    write_baselines(folder, tensors)
    assert run(folder, "--data", "Folder", f"root={pairs}", "--json") == 0
    baselines = json.loads(capsys.readouterr().out)["baselines"]
    assert list(baselines) == ["constant median", "mean map"]
    assert baselines["mean map"] == pytest.approx(baselines["constant median"])


@pytest.mark.parametrize("location", ["model", "run"])
def test_without_data_the_validation_set_of_the_training_is_used(
    folder: Path, pairs: Path, capsys: pytest.CaptureFixture[str], location: str
) -> None:
    call = {"class_path": "Folder", "init_args": {"root": str(pairs), "split": "val"}}
    parent = folder if location == "model" else folder.parent
    (parent / "recipe.yaml").write_text(yaml.safe_dump({"val": call}))
    assert run(folder, "--json") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 1


def test_the_validation_set_can_come_from_another_recipe(
    folder: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = {"class_path": "diffsight.datasets.folder.Folder", "init_args": {"root": str(pairs)}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"val": call}))
    assert run(folder, "--json", "--recipe", tmp_path / "r.yaml") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no recipe.yaml in or above it"),
        (
            ["--data", "Foldr", "root=x"],
            "--data: there is no class 'Foldr': did you mean 'Folder'?",
        ),
        (["--data", "Folder", "rot=x"], "unknown key '--data.rot' of Folder: did you mean 'root'?"),
        (["--data", "Folder", "x"], "'x' is not of the form key=value"),
        (["--data", "Folder", "root=gone"], "gone"),
        (["--recipe", "vpd/depth_nyv"], "did you mean 'vpd/depth_nyu'?"),
        (["--protocol", "nyu-eigen-v2"], "did you mean 'nyu-eigen-v1'?"),
        (["--limit", "0"], "--limit must be at least 1"),
        (["--images", "x"], "--images and --labels belong together"),
        (["--images", "x", "--labels", "y"], "x: no such folder"),
        (["--unit", "mm"], "--unit is for --labels: leave it out"),
        (["--snap"], "--snap is for --labels: leave it out"),
        (["--classes", "names.txt"], "--classes is for --labels: leave it out"),
        (["--model", "a"], "--model is given twice"),
    ],
)
def test_invalid_options_are_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(folder, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_crop_of_a_protocol_must_fit_the_images(
    folder: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", "Folder", f"root={pairs}", "--protocol", "nyu-eigen-v1"]
    assert run(folder, *arguments) == 2
    assert "480 x 640" in capsys.readouterr().err


def score(predictions: Path, data: list[str], *arguments: str) -> int:
    return cli.main(["evaluate", "--predictions", str(predictions), "--data", *data, *arguments])


@pytest.mark.parametrize("suffix", ["npy", "png"])
def test_depth_files_of_another_program_are_scored_without_a_model(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for path in (pairs / "depth").iterdir():
        counts = np.asarray(Image.open(path))
        if suffix == "npy":
            np.save(theirs / f"{path.stem}.npy", counts / 1000 + 0.5)
        else:
            Image.fromarray(counts + np.uint16(500)).save(theirs / path.name)
    (theirs / f"other.{suffix}").touch()
    options = ["--protocol", "rooms-v1", *(["--unit", "mm"] if suffix == "png" else [])]
    data = ["Folder", f"root={pairs}"]
    assert score(theirs, data, *options, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["predictions"] == {"folder": str(theirs)}
    assert report["metrics"]["rmse"] == pytest.approx(0.5, abs=1e-5)
    assert report["images"] == 3
    assert set(report["baselines"]) == {"constant median (oracle)", "mean map (oracle)"}
    (theirs / f"b.{suffix}").unlink()
    assert score(theirs, data, *options) == 2
    error = capsys.readouterr().err
    assert "no prediction for 1 of 3 samples: b: write each as ID.npy or ID.png" in error


def test_prediction_files_without_a_sample_are_logged(
    pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (pairs / "depth").iterdir():
        np.save(tmp_path / f"{path.stem}.npy", np.asarray(Image.open(path)) / 1000)
    np.save(tmp_path / "surplus.npy", np.ones((20, 20)))
    assert score(tmp_path, ["Folder", f"root={pairs}"], "--protocol", "rooms-v1") == 0
    assert "1 files belong to no sample: surplus.npy" in caplog.text


def test_class_and_mask_files_of_another_program_are_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rooms, masks, ids = ReferringRooms("val", 2, 32), tmp_path / "masks", tmp_path / "ids"
    masks.mkdir()
    ids.mkdir()
    for i in range(2):
        sample = rooms[i]
        several = len(sample.sentences) > 1
        for number in range(max(1, len(sample.sentences))):
            name = f"{sample.id}-{number}" if several else sample.id
            mask = sample.labels["referent"].numpy().astype(np.uint8) * 255
            Image.fromarray(mask).save(masks / f"{name.replace('/', '__')}.png")
        room = Rooms("val", 2, 32, ("semantic",))[i]
        name = room.id.replace("/", "__")
        np.save(ids / f"{name}.npy", room.labels["semantic"].numpy())
    data = ["ReferringRooms", "split=val", "count=2", "size=32"]
    assert score(masks, data, "--protocol", "sentences-v1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["oiou"] == 1
    data = ["Rooms", "split=val", "count=2", "size=32", "labels=[semantic]"]
    assert score(ids, data, "--protocol", "classes-v1", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["metrics"]["aacc"] == 1
    assert report["classes"]
    np.save(ids / f"{name}.npy", np.full((32, 32), 99))
    assert score(ids, data, "--protocol", "classes-v1") == 2
    assert "class 99, but the classes are 0 to 29" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "Folder", "root={pairs}"], "give --protocol ID"),
        (["--protocol", "rooms-v1"], "give --data or --recipe"),
        (["--protocol", "rooms-v1", "--model", "x"], "give --model, or --predictions"),
        (["--protocol", "rooms-v1", "--data", "Folder", "root={pairs}", "--record"], "--record"),
        (["--protocol", "rooms-v1", "--data", "Folder", "root={pairs}"], "64 x 64 pixels, its lab"),
        (
            ["--protocol", "rooms-v1", "--flip", "--scales", "1,2", "--short-side", "64"],
            "--predictions run no model: leave --flip, --scales, --short-side out",
        ),
        (
            ["--protocol", "rooms-v1", "--device", "cpu", "--dtype", "bfloat16"],
            "leave --device, --dtype out",
        ),
        (["--protocol", "rooms-v1", "--backbone", "tiny"], "leave --backbone out"),
    ],
)
def test_stored_predictions_that_cannot_be_scored_are_refused(
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    np.save(tmp_path / "a.npy", np.ones((64, 64)))
    options = [option.format(pairs=pairs) for option in arguments]
    assert cli.main(["evaluate", "--predictions", str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_model_or_predictions_are_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "--protocol", "rooms-v1"]) == 2
    assert "give --model, or --predictions DIR" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for option in ("--out", "--results"):
        words = ["--model", str(tmp_path / "none"), option, str(tmp_path / "file" / "a.json")]
        assert cli.main(["evaluate", *words]) == 2
        assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--out", "--results"])
def test_a_folder_as_a_report_is_refused_before_the_model_is_loaded(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(tmp_path / "none"), option, str(tmp_path)]
    assert cli.main(["evaluate", *words]) == 2
    assert f"{tmp_path}: is a folder: give the name of a file" in capsys.readouterr().err


def write_masks(root: Path, *values: int) -> list[str]:
    """Write three images, and masks with columns of these values; return the options for them."""
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for number in range(3):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        mask = np.array(values, np.uint8).repeat(8)[:32][None].repeat(32, axis=0)
        Image.fromarray(mask).save(root / "labels" / f"{number}.png")
    return ["--images", str(root / "images"), "--labels", str(root / "labels")]


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Return a saved model with the classes 0 and 1."""
    dense = DenseModel(task=Segmentation(["ground", "crack"]), method=Probabilities)
    dense.info["kind"] = "segmentation"
    return save(dense, tmp_path / "classes.safetensors")


def run_classes(model: Path, *arguments: str) -> int:
    trust = ["--trust", "tests", "--device", "cpu"]
    return cli.main(["evaluate", "--model", str(model), *trust, *arguments])


def test_the_log_says_how_many_pixels_have_no_label_and_why(
    classes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert run_classes(classes, *write_masks(tmp_path / "a", 0, 1, 1, 255)) == 0
    assert "255 (768 pixels, 25.0 %) is taken for 'no label', as in most data sets" in caplog.text


def test_white_is_not_left_out_of_black_and_white_masks(
    classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_masks(tmp_path / "a", 0, 0, 0, 255)
    assert run_classes(classes, *data) == 2
    assert "contains the class 255, which is not in the training set" in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("0,ground\n255,crack\n")
    assert run_classes(classes, *data, "--classes", str(tmp_path / "names.txt"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 3


def test_smoothed_masks_are_snapped_on_request(
    classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_masks(tmp_path / "a", 0, 0, 1, 1)
    for path in (tmp_path / "a" / "labels").iterdir():
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    assert run_classes(classes, *data) == 2
    assert "or give --snap" in capsys.readouterr().err
    assert run_classes(classes, *data, "--snap", "--json") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 3


def test_depth_is_read_with_the_unit_of_the_training_labels(
    pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    dense = tiny()
    dense.info |= {"kind": "depth", "unit": "m", "label_unit": "m/256"}
    model = save(dense, tmp_path / "far.safetensors")
    data = ["--images", str(pairs / "images"), "--labels", str(pairs / "depth")]
    options = ["--model", str(model), "--device", "cpu"]
    assert cli.main(["evaluate", *options, *data, "--json"]) == 0
    (line,) = (line for line in caplog.messages if line.startswith("labels: "))
    assert line.endswith(" m, read with --unit m/256 (as in training)")
    assert cli.main(["evaluate", *options, *data, "--json", "--unit", "mm"]) == 0
    assert caplog.messages[-1].endswith(" m, read with --unit mm")
