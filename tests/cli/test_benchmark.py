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


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (
            "--methods clip-linear,few_shot:codebook=0,few_shot:codebook=1 --tasks normal",
            {"clip-linear", "few_shot:codebook=0", "few_shot:codebook=1"},
        ),
        (
            "--methods few_shot,few_shot:maps.self_attention=false --tasks depth_zbuffer",
            {"few_shot", "few_shot:maps.self_attention=false"},
        ),
        (
            "--methods few_shot:codebook=1,few_shot:codebook=5 --tasks normal",
            {"few_shot:codebook=1", "few_shot:codebook=5"},
        ),
        (
            "--methods few_shot,few_shot-regression --tasks depth_zbuffer --curve-every 1",
            {"few_shot", "few_shot-regression"},
        ),
        ("--methods few_shot,vpd:batch_size=2 --shots 2,3", {"few_shot", "vpd:batch_size=2"}),
    ],
    ids=["table 1", "table 3", "table 4", "figure 3", "figure 4"],
)
def test_a_table_of_the_paper_is_one_command(words, rows, embedded, tmp_path) -> None:
    out = tmp_path / "bench"
    line = ["benchmark", "few-shot", "--out", str(out), "--steps", "2", "--repeats", "1"]
    line += ["--size", "32", "--max-images", "2", "--tasks", "normal", "--shots", "2"]
    assert main([*line, *words.split()]) == 0
    units = [json.loads(path.read_text()) for path in out.rglob("rep0*.json")]
    assert {unit["method"] for unit in units} == rows
    assert all(unit["facts"]["steps"] for unit in units)
    page = (out / "report.md").read_text()
    assert ("mean after steps | 1 | 2 |" in page) == ("--curve-every" in words)
    assert ("mean by number of labelled images" in page) == ("2,3" in words)
    assert {unit["shots"] for unit in units} == ({2, 3} if "2,3" in words else {2})


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
        (["--methods", "few_shot:codebok=1"], "no option 'codebok': did you mean 'codebook'"),
        (["--methods", "constant:codebook=1"], "constant has no options"),
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
