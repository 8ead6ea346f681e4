"""``diffsight predict --confidence``: files, JSON, and invalid confidences."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support_cli import photo
from tests.support_cli import predict as run
from tests.support_inference import calibrated
from tests.support_models import ARCHITECTURE, edit_config

from diffsight.backbones import StableDiffusion
from diffsight.heads.deconv import DeconvHead
from diffsight.hub import save
from diffsight.methods import VPD
from diffsight.model import DenseModel
from diffsight.necks.merging import Merging
from diffsight.prompts.text import TextTable
from diffsight.tasks import Segmentation


@pytest.fixture
def calibrated_depth(depth_model: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "calibrated"
    shutil.copytree(depth_model, folder)
    edit_config(folder, lambda config: config["info"].update(calibrated()))
    return folder


@pytest.fixture
def calibrated_classes(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = DenseModel(
        task=Segmentation(["floor", "wall", "door"]),
        method=functools.partial(
            VPD,
            backbone=StableDiffusion(ARCHITECTURE),
            prompts=TextTable(["kitchen", "office"], dim=8),
            neck=functools.partial(Merging, width=8, groups=4),
            head=functools.partial(DeconvHead, widths=(8, 8, 8), width=8),
        ),
    ).eval()
    model.info |= calibrated(q=[0.5, 0.6, 0.68], residuals={"area.floor": [0.1] * 9})
    return save(model, tmp_path / "classes")


def test_intervals_are_written_with_metadata(
    calibrated_depth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = photo(tmp_path / "a.jpg"), tmp_path / "out"
    assert run(calibrated_depth, image, "--out", out, "--confidence", "0.9", "--json") == 0
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert line == {"folder": str(out), **json.loads((out / "a.json").read_text())}
    ends = ("depth.png", "low.npy", "high.npy", "abstain.png", "colour.png")
    files = {path.name for path in out.iterdir()}
    assert files == {"a.json", *(f"a_{end}" for end in ends)}
    low, high = (np.load(out / line[name]) for name in ("low", "high"))
    assert low.shape == high.shape == (32, 40)
    assert (low >= 0).all()
    about = line["calibrated"]
    assert about["confidence"] == 0.9
    assert about["images"] == 9
    assert about["low_high_unit"] == "m"
    assert about["mean"]["low"] < about["mean"]["value"] < about["mean"]["high"]
    assert about["volume"]["value"] == pytest.approx(about["mean"]["value"] * 32 * 40)
    abstain = np.asarray(Image.open(out / line["abstain"]))
    assert set(np.unique(abstain)) <= {0, 255}
    assert about["abstained"] == pytest.approx((abstain == 255).mean(), abs=1e-5)
    # a run without --confidence removes these files
    assert run(calibrated_depth, image, "--out", out) == 0
    assert not (out / "a_low.npy").exists()
    assert "calibrated" not in json.loads((out / "a.json").read_text())


def test_sets_of_classes_are_written_with_areas(calibrated_classes: Path, tmp_path: Path) -> None:
    image, out = photo(tmp_path / "a.jpg"), tmp_path / "out"
    assert run(calibrated_classes, image, "--out", out, "--confidence", "0.9") == 0
    about = json.loads((out / "a.json").read_text())
    included = np.load(out / about["set"])
    assert included.shape == (3, 32, 40)
    assert included.dtype == bool
    ids = np.asarray(Image.open(out / about["classes"]))
    assert np.take_along_axis(included, ids[None].astype(int), axis=0).all()
    abstain = np.asarray(Image.open(out / about["abstain"])) == 255
    assert (abstain == (included.sum(axis=0) > 1)).all()
    area = about["calibrated"]["area"]
    assert list(area) == ["floor", "wall", "door"]
    assert sum(one["value"] for one in area.values()) == pytest.approx(1)
    assert all(0 <= one["low"] <= one["value"] <= one["high"] <= 1 for one in area.values())
    with Image.open(out / about["colour"]) as picture:
        height = picture.height
    assert run(calibrated_classes, image, "--out", out) == 0
    with Image.open(out / about["colour"]) as picture:
        assert picture.height == height > 32  # the legend is below the picture


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--confidence", "0.95"], "needs 19 labelled images, the model was calibrated on 9"),
        (["--confidence", "1.5"], "confidence 1.5: give a number from 0.5 to 0.999"),
        (
            ["--confidence", "0.9", "--classes", "floor"],
            "--confidence is calibrated for all classes: leave --classes or --confidence out",
        ),
    ],
)
def test_invalid_confidences_are_refused_in_one_line(
    arguments: list[str],
    message: str,
    calibrated_classes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image, out = photo(tmp_path / "a.jpg"), tmp_path / "out"
    assert run(calibrated_classes, image, "--out", out, *arguments) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert "\n" not in printed
    assert not out.exists()


def test_a_model_without_a_calibration_is_refused(
    depth_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = photo(tmp_path / "a.jpg")
    assert run(depth_model, image, "--out", tmp_path / "out", "--confidence", "0.9") == 2
    assert f"{depth_model}: the model has no calibration" in capsys.readouterr().err
