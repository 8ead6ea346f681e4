"""``diffsight show``: protocols, calibration, and mistyped names."""

import json
from pathlib import Path

import pytest
from tests.support_models import tiny

from diffsight import cli, protocols
from diffsight.hub import save


def test_every_protocol_is_listed_on_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "protocols"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert tuple(line.split()[0] for line in lines) == protocols.names()
    assert all(len(line.split()) > 2 for line in lines)
    assert cli.main(["show", "protocols", "--json"]) == 0
    assert tuple(json.loads(capsys.readouterr().out)) == protocols.names()


def test_for_a_mistyped_model_a_similar_name_is_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tiny(), Path("cracks.safetensors"))
    save(tiny(), Path("runs/kitchen"))
    for wrong, right in (
        ("crack.safetensors", "cracks.safetensors"),
        ("runs/kitchn", "kitchen"),
        (str(tmp_path / "craks.safetensors"), "cracks.safetensors"),
    ):
        assert cli.main(["show", wrong]) == 2
        assert f"did you mean {right!r}?" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--recipe", "--protocol"])
def test_a_mistyped_recipe_or_protocol_is_refused_in_one_short_line(
    option: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = save(tiny(), tmp_path / "model")
    assert cli.main(["evaluate", "--model", str(model), option, "roms/vp"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert len(error) < 250


def test_the_range_of_confidences_of_a_calibrated_model_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny()
    model.info["calibration"] = {
        "images": 9,
        "confidence": [0.5, 0.9],
        "q": [1.0, 2.0],
        "residuals": {},
    }
    assert cli.main(["show", str(save(model, tmp_path / "model"))]) == 0
    line = "intervals: `predict --confidence` from 0.5 to 0.9, calibrated on 9 images"
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    ("interrupted", "text"), [(False, "vpd, 9 steps"), (True, "9 steps planned")]
)
def test_the_steps_of_an_interrupted_training_are_called_planned(
    interrupted: bool, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny()
    model.info |= {"chosen": "vpd", "steps": {"vpd": 9}, "interrupted": interrupted}
    assert cli.main(["show", str(save(model, tmp_path / "model"))]) == 0
    assert text in capsys.readouterr().out
