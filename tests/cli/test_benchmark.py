"""``diffsight benchmark few-shot``, as a user runs it."""

import json
import shutil

import numpy as np
import pytest
from tests.datasets.taskonomy_files import SIDE, view, write_all

from diffsight.cli import main


def test_rooms_from_the_command_line(embedded, tmp_path, capsys) -> None:
    out = tmp_path / "bench"
    words = ["benchmark", "few-shot", "--out", str(out), "--tasks", "depth_zbuffer,normal"]
    words += [
        "--methods",
        "feature_head,constant",
        "--shots",
        "3",
        "--repeats",
        "2",
        "--steps",
        "1",
    ]
    words += ["--size", "32", "--max-images", "2"]
    assert main(words) == 0
    page = capsys.readouterr().out
    assert "### depth_zbuffer: rmse_valid, 3 shots (lower is better)" in page
    assert "### normal: merr_true, 3 shots (lower is better)" in page
    unit = json.loads((out / "normal/feature_head/shots3/rep001.json").read_text())
    assert len(unit["training_images"]) == 3
    assert main(["benchmark", "few-shot", "--out", str(out), "--report"]) == 0
    assert capsys.readouterr().out == page


def test_a_part_of_taskonomy(embedded, tmp_path, caplog) -> None:
    """What is not there, and what there is too little of, is named; the rest is run."""
    caplog.set_level("INFO")
    files = view()
    rng = np.random.default_rng(0)
    for name, old in files.items():
        low, high = (10, 300) if old.dtype == np.uint16 else (1, 255)
        files[name] = rng.integers(low, high, old.shape).astype(old.dtype)
    nothing = {"segment_semantic": np.full((SIDE, SIDE), 1, np.uint8)}
    root = write_all(tmp_path / "data", **files | nothing)
    shutil.rmtree(root / "muleshoe" / "keypoints3d")
    words = ["benchmark", "few-shot", "--data", "taskonomy", "--root", str(root), "--shots", "2"]
    words += ["--out", str(tmp_path / "x"), "--methods", "constant", "--repeats", "1", "--steps"]
    assert main([*words, "1"]) == 0
    assert "left out: keypoints3d: keypoints3d is not there" in caplog.text
    assert "left out: segment_semantic/bed: 0 images for 2 shots, 0 to score" in caplog.text
    assert "buildings without images: allensville" in caplog.text
    made = {path.name for path in (tmp_path / "x").iterdir()}
    assert {"normal", "depth_zbuffer", "reshading"} <= made
    assert "keypoints3d" not in made


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "taskonomy"], "needs --root"),
        (["--methods", "best"], "unknown method 'best'"),
        (["--tasks", "colour"], "has no task 'colour'"),
        (["--report"], "holds no finished unit"),
        (["--shots", "0"], "shots 0: give a whole number from 1 on"),
        (["--steps", "-3"], "steps -3: give a whole number from 1 on"),
        (["--minutes", "nan"], "nan minutes: give a number above 0"),
        (["--short-side", "-4"], "short side -4: give a whole number from 16 on"),
        (["--size", "0"], "size 0"),
        (["--shard", "0/0"], "give 0/N to N-1/N"),
        (["--reference", "best"], "--reference best: choose from auto"),
        (["--shots", "5000"], "no task has images for 5000 shots"),
        (["--shots", "5000", "--tasks", "normal"], "2000 images of normal for 5000 shots"),
    ],
)
def test_bad_input_is_one_line(words, message, embedded, tmp_path, capsys) -> None:
    line = ["benchmark", "few-shot", "--out", str(tmp_path / "x"), "--max-images", "1", *words]
    assert main(line) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("diffsight: ")
    assert message in error
