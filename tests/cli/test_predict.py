"""``diffsight predict``: files, JSON lines, errors, and too little memory."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support_cli import RNG, photo
from tests.support_cli import predict as run
from tests.support_models import tiny

from diffsight import cli
from diffsight.hub import read_config, save
from diffsight.model import DenseModel
from diffsight.tasks import DepthPrediction
from diffsight.types import Inputs


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    photo(root / "a.jpg")
    photo(root / "b.png", 48, 33)
    photo(root / "trip" / "a.webp", 21, 64)
    return root


def test_predictions_of_a_folder_are_written_with_metadata(
    depth_model: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(depth_model, photos, "--out", out) == 0
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert files == {
        f"{name}{end}"
        for name in ("a", "b", "trip/a")
        for end in ("_depth.png", "_colour.png", ".json")
    }
    about = json.loads((out / "trip" / "a.json").read_text())
    with Image.open(out / "trip" / about["depth"]) as depth:
        assert depth.size == (64, 21)
        counts = np.asarray(depth)
    assert counts.dtype == np.uint16
    median_m = np.median(counts[counts > 0]) * about["scale"]
    assert median_m == pytest.approx(about["depth_m"]["median"], abs=1e-3)
    assert about["depth_type"] == "z"
    assert about["model"]["fingerprint"] == read_config(depth_model)["fingerprint"]
    assert about["plan"] == "own size, whole image, no flip"
    assert about["evaluated"] == []


@pytest.mark.parametrize(("flag", "valid_columns"), [("--released-windows", 1207), (None, 1216)])
def test_only_the_released_windows_leave_columns_of_a_kitti_image_out(
    flag: str | None, valid_columns: int, depth_model: Path, tmp_path: Path
) -> None:
    street, out = photo(tmp_path / "street.png", 352, 1216), tmp_path / "out"
    plan = ["--windows", "16", "--short-side", "own", "--batch-size", "4"]
    assert run(depth_model, street, "--out", out, *plan, *([flag] if flag else [])) == 0
    about = json.loads((out / "street.json").read_text())
    with Image.open(out / about["depth"]) as depth:
        valid = np.asarray(depth) > 0
    assert valid[:, :valid_columns].all()
    assert not valid[:, valid_columns:].any()
    assert about["valid"] == pytest.approx(valid_columns / 1216, abs=1e-6)
    assert ("16 square windows as released" in about["plan"]) == (flag is not None)


def test_json_lines_go_to_stdout_and_messages_to_stderr(
    depth_model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    plan = ["--windows", "2", "--flip", "--short-side", "24", "--batch-size", "3"]
    assert run(depth_model, photos, "--out", out, "--scene", "office", "--json", *plan) == 0
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert [Path(line["image"]).name for line in lines] == ["a.jpg", "b.png", "a.webp"]
    for line in lines:
        assert (Path(line["folder"]) / line["depth"]).is_file()
        assert line["plan"] == "short side 24 px, 2 square windows, with flip"
        assert line["scene"] == "office"
        assert line["uncertainty_m"]["median"] >= 0
    assert "3 of 3 images" in printed.err


def test_the_default_size_is_that_of_the_training_images(
    depth_model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = tmp_path / "trained"
    shutil.copytree(depth_model, trained)
    config = json.loads((trained / "config.json").read_text())
    config["info"]["short_side"] = 20
    (trained / "config.json").write_text(json.dumps(config))
    for more, plan in ((), "short side 20 px"), (("--short-side", "own"), "own size"):
        assert run(trained, photos, "--out", tmp_path / "out", "--json", *more) == 0
        for line in capsys.readouterr().out.splitlines():
            assert json.loads(line)["plan"] == f"{plan}, whole image, no flip"


def test_every_unusable_image_is_reported_in_one_line(
    depth_model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "a2.jpg").write_bytes(b"")
    (photos / "cut.jpg").write_bytes((photos / "a.jpg").read_bytes()[:300])
    (photos / "text.png").write_text("hello")
    photo(photos / "dot.png", 1, 1)
    photo(photos / "strip.png", 10, 20_000)
    gone = photos / "gone.jpg"
    out = tmp_path / "out"
    assert run(depth_model, photos, gone, "--out", out, "--json") == 1
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    failed = {Path(line["image"]).name: line["error"] for line in lines if "error" in line}
    assert set(failed) == {"a2.jpg", "cut.jpg", "text.png", "dot.png", "strip.png", "gone.jpg"}
    assert "empty" in failed["a2.jpg"]
    for name, error in failed.items():
        assert name in error
        assert "\n" not in error
        assert error in printed.err
    assert "3 of 9 images" in printed.err
    assert len(list(out.rglob("*_depth.png"))) == 3


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "I;16"])
def test_images_of_all_modes_are_read(depth_model: Path, tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        pixels = RNG.integers(0, 65536, (32, 32)).astype(np.uint16)
        Image.fromarray(pixels).save(tmp_path / "a.png")
    else:
        photo(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"), mode=mode)
    assert run(depth_model, tmp_path, "--out", tmp_path / "out") == 0


def test_exif_orientation_is_applied(depth_model: Path, tmp_path: Path) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (32, 48, 3), dtype=np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert run(depth_model, tmp_path / "a.jpg", "--out", tmp_path / "out") == 0
    with Image.open(tmp_path / "out" / "a_depth.png") as depth:
        assert depth.size == (32, 48)


@pytest.mark.parametrize("batch_size", ["1", "4"])
@pytest.mark.parametrize(
    "raised",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
    ],
)
def test_an_image_too_large_for_the_memory_is_reported_and_all_others_are_predicted(
    raised: Exception,
    batch_size: str,
    depth_model: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    forward = DenseModel.forward

    def limited(self: DenseModel, inputs: Inputs, *args: Any, **options: Any) -> Any:
        if inputs.image.shape[0] * inputs.image.shape[2] * inputs.image.shape[3] > 64 * 96:
            raise raised
        return forward(self, inputs, *args, **options)

    monkeypatch.setattr(DenseModel, "forward", limited)
    photo(photos / "aa.png", 96, 128)  # between the other images
    photo(photos / "c.png", 48, 33)
    photo(photos / "d.png", 48, 33)
    out = tmp_path / "out"
    assert run(depth_model, photos, "--out", out, "--batch-size", batch_size) == 1
    error = capsys.readouterr().err.splitlines()
    (line,) = (line for line in error if "not enough memory" in line or "has not enough" in line)
    assert line.startswith(f"{photos / 'aa.png'}: cpu has not enough memory for 1 x 128 x 96 px")
    assert "--short-side" in line
    assert "--tile" in line
    assert error[-1] == f"5 of 6 predictions -> {out}" or error[-1] == f"5 of 6 images -> {out}"
    names = {path.stem for path in out.rglob("*.json")}
    assert names == {"a", "b", "c", "d"}


def test_output_files_too_large_for_the_memory_are_reported(
    depth_model: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def draw(*args: Any, **options: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(DepthPrediction, "draw", draw)
    assert run(depth_model, photos, "--out", tmp_path / "out") == 1
    assert capsys.readouterr().err.count("not enough memory for its output files") == 3


def test_a_size_too_large_for_the_memory_is_refused(
    depth_model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--out", tmp_path / "out", "--short-side", "99999999")
    assert run(depth_model, photos, *arguments) == 2
    error = capsys.readouterr().err
    assert "images at a short side of 99999999 px: takes at least" in error
    assert error.count("\n") == 1


def test_an_unknown_scene_is_refused_with_a_suggestion(
    depth_model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(depth_model, photos, "--out", out, "--scene", "kichen") == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].endswith("did you mean 'kitchen'?")
    assert not out.exists()


def test_an_output_that_cannot_be_written_is_refused(
    depth_model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(depth_model, photos, "--out", tmp_path / "file" / "out") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert run(depth_model, photos, "--out", "/proc/nowhere") == 2
    error = capsys.readouterr().err
    assert error.startswith("diffsight: /proc/nowhere: cannot be written")
    assert error.count("\n") == 1


def test_a_full_disk_leaves_no_incomplete_result(
    depth_model: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The JSON file is written to a device that is always full; the maps must be removed."""

    def full(self: Path, text: str, encoding: str) -> None:
        with open("/dev/full", "w") as device:
            device.write(text)

    monkeypatch.setattr(Path, "write_text", full)
    assert run(depth_model, photos / "a.jpg", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "No space left on device" in error
    assert "a.json" in error
    assert list((tmp_path / "out").iterdir()) == []


def test_results_that_cannot_be_written_are_lines_and_the_others_are_predicted(
    depth_model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    long = photo(photos / f"{'x' * 246}.jpg")
    photo(photos / "z.jpg")
    out.mkdir()
    (out / "trip").write_text("a file in place of a folder")
    assert run(depth_model, photos, "--out", out, "--json", "--batch-size", "2") == 1
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    errors = {Path(line["image"]).name: line["error"] for line in lines if "error" in line}
    image = photos / "trip" / "a.webp"
    assert errors.keys() == {long.name, "a.webp"}
    assert errors[long.name] == (
        f"{long}: the names of its results would be too long: give it a shorter name"
    )
    assert errors["a.webp"].startswith(f"{image}: {out / 'trip'}: cannot be created (")
    assert "3 of 5 images" in printed.err
    files = {f"{name}{end}" for name in "abz" for end in ("_depth.png", "_colour.png", ".json")}
    assert {path.name for path in out.iterdir()} == files | {"trip"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--windows", "0"], "diffsight: --windows must be at least 1, got 0\n"),
        (["--batch-size", "0"], "diffsight: --batch-size must be at least 1, got 0\n"),
        (["--short-side", "0"], "diffsight: --short-side must be at least 1, got 0\n"),
        (["--tile", "8"], "diffsight: --tile and --stride belong together: give both, or neither"),
        (["--long-side", "9", "--short-side", "own"], "--long-side limits the size that --short-"),
        (["--released-windows"], "--released-windows needs square windows: set --windows to 2"),
        (["--ensemble-size", "3"], "VPD adds no noise, so all passes of an ensemble are equal: le"),
        (["--batch-size", "0", "--model", "nowhere"], "--batch-size must be at least 1, got 0\n"),
        (["--batch-size", "0", "--engine", "ray"], "--batch-size must be at least 1, got 0\n"),
        (["--detector", "x"], "predicts no joints: leave --detector out\n"),
        (["--detector", "x", "--boxes", "b.json"], "--boxes and --detector exclude each other: gi"),
        (["--device", "abacus"], "device 'abacus' cannot be used"),
        (["--model", "nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_invalid_options_are_refused_in_one_line(
    depth_model: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    base = ["predict", str(photos), "--model", str(depth_model), "--out", str(tmp_path / "out")]
    assert cli.main([*base, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "command",
    [["serve", "MODEL"], ["evaluate", "--model", "MODEL", "--data", "Rooms", "split=val"]],
)
def test_other_commands_name_the_flags_of_the_plan_too(
    command: list[str], depth_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(depth_model) if one == "MODEL" else one for one in command]
    assert cli.main([*arguments, "--device", "cpu", "--batch-size", "0"]) == 2
    assert capsys.readouterr().err == "diffsight: --batch-size must be at least 1, got 0\n"


def test_metadata_has_the_recorded_evaluations_of_the_model(photos: Path, tmp_path: Path) -> None:
    result = {
        "protocol": {"name": "rooms-v1"},
        "data": "rooms",
        "plan": "own size, whole image, no flip",
        "metrics": {"rmse": 0.5},
    }
    folder = save(tiny(), tmp_path / "m", info={"results": [result]})
    assert run(folder, photos / "a.jpg", "--out", tmp_path / "out") == 0
    about = json.loads((tmp_path / "out" / "a.json").read_text())
    assert about["evaluated"] == [result | {"protocol": "rooms-v1"}]


def test_results_can_be_written_next_to_their_images(depth_model: Path, photos: Path) -> None:
    assert run(depth_model, photos, "--out", photos) == 0
    first = {path: path.stat().st_size for path in photos.rglob("*")}
    assert run(depth_model, photos, "--out", photos) == 0
    assert {path: path.stat().st_size for path in photos.rglob("*")} == first


@pytest.mark.parametrize("name", ["a_depth.png", "a.json"])
def test_other_files_next_to_an_image_are_not_replaced(
    name: str, depth_model: Path, photos: Path, capsys
) -> None:
    own = photos / name
    own.write_text('{"of": "mine"}')
    others = {path.name for path in photos.iterdir()} - {"a.jpg", name}
    assert run(depth_model, photos, "--out", photos, "--json") == 1
    out, err = capsys.readouterr()
    assert f"{own}: exists already" in err
    lines = [json.loads(line) for line in out.splitlines()]
    assert sum("exists already" in line.get("error", "") for line in lines) == 1
    assert sum("error" not in line for line in lines) > 0  # the others are predicted
    assert others < {path.name for path in photos.iterdir()}
    assert own.read_text() == '{"of": "mine"}'
    assert {path.name for path in photos.glob("a*")} == {"a.jpg", name}
    assert run(depth_model, photos / "a.jpg", "--out", photos / "out") == 0
