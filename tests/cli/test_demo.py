"""``diffsight demo`` with a few steps, from rendering to the picture."""

from pathlib import Path

import pytest
from PIL import Image

from diffsight.cli import demo, main
from diffsight.hub import read_config


@pytest.mark.usefixtures("embedded")
def test_the_demo_trains_a_model_and_draws_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "SHOTS", 4)
    monkeypatch.setattr(demo, "TESTS", 3)
    out = tmp_path / "demo"
    for _ in range(2):  # again, in the same folder
        assert main(["demo", "--out", str(out), "--steps", "2"]) == 0
    text = capsys.readouterr().out
    rows = (
        "few_shot:max_steps=20 on tiny",
        "feature_head on efficientnet-lite0@128",
        "(chosen)",
        "mean map",
    )
    for row in (*rows, "colour of the pixel", "constant", "3 new rooms"):
        assert row in text
    with Image.open(out / "rooms.png") as picture:
        assert picture.size == (4 * 192, 3 * 192)
    assert read_config(out / "depth.safetensors")["info"]["kind"] == "depth"
    assert len(list((out / "images").iterdir())) == len(list((out / "depth").iterdir())) == 4


def test_a_folder_with_other_files_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffsight.adaptation.adapt.adapt", pytest.fail)
    ours, theirs = tmp_path / "images" / "room0.png", tmp_path / "depth" / "holiday.png"
    for path in (ours, theirs):
        path.parent.mkdir()
        path.write_text("a picture")
    assert main(["demo", "--out", str(tmp_path), "--steps", "1"]) == 2
    message = f"{theirs.parent}: contains files that no demo wrote (holiday.png): choose another"
    assert message in capsys.readouterr().err
    assert ours.read_text() == theirs.read_text() == "a picture"
    assert len(list(tmp_path.rglob("*"))) == 4


def test_an_output_that_is_a_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "demo").write_text("a file")
    assert main(["demo", "--out", str(tmp_path / "demo"), "--steps", "1"]) == 2
    assert "choose another --out" in capsys.readouterr().err
