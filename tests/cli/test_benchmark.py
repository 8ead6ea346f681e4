"""``diffsight benchmark few-shot`` on the command line."""

import json
import shutil

import numpy as np
import pytest
from tests.support_taskonomy import SIDE, make_view, write_views

from diffsight.cli import main


def test_a_benchmark_on_rooms_writes_units_and_a_report(embedded, tmp_path, capsys) -> None:
    out = tmp_path / "bench"
    arguments = ["benchmark", "few-shot", "--out", str(out), "--tasks", "depth_zbuffer,normal"]
    arguments += [
        "--methods",
        "feature_head,constant",
        "--shots",
        "3",
        "--repeats",
        "2",
        "--steps",
        "1",
    ]
    arguments += ["--size", "32", "--max-images", "2"]
    assert main(arguments) == 0
    page = capsys.readouterr().out
    assert "### depth_zbuffer: rmse_valid, 3 shots (lower is better)" in page
    assert "### normal: merr_true, 3 shots (lower is better)" in page
    unit = json.loads((out / "normal/feature_head/shots3/rep001.json").read_text())
    assert len(unit["training_images"]) == 3
    assert main(["benchmark", "few-shot", "--out", str(out), "--report"]) == 0
    assert capsys.readouterr().out == page
    others = ["--methods", "linear_probe", "--reference", "nope"]
    assert main([*arguments[:4], *others]) == 2
    line = "--reference nope: choose from linear_probe, constant, feature_head\n"
    assert capsys.readouterr().err.endswith(line)


@pytest.mark.parametrize(
    ("arguments", "rows"),
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
def test_one_command_runs_a_table_of_the_paper(arguments, rows, embedded, tmp_path) -> None:
    out = tmp_path / "bench"
    line = ["benchmark", "few-shot", "--out", str(out), "--steps", "2", "--repeats", "1"]
    line += ["--size", "32", "--max-images", "2", "--tasks", "normal", "--shots", "2"]
    assert main([*line, *arguments.split()]) == 0
    units = [json.loads(path.read_text()) for path in out.rglob("rep0*.json")]
    assert {unit["method"] for unit in units} == rows
    assert all(unit["facts"]["steps"] for unit in units)
    page = (out / "report.md").read_text()
    assert ("mean after steps | 1 | 2 |" in page) == ("--curve-every" in arguments)
    assert ("mean by number of labelled images" in page) == ("2,3" in arguments)
    assert {unit["shots"] for unit in units} == ({2, 3} if "2,3" in arguments else {2})


def test_taskonomy_tasks_with_too_few_files_are_skipped(embedded, tmp_path, caplog) -> None:
    """They are logged; the other tasks are run."""
    caplog.set_level("INFO")
    files = make_view()
    rng = np.random.default_rng(0)
    for name, old in files.items():
        low, high = (10, 300) if old.dtype == np.uint16 else (1, 255)
        files[name] = rng.integers(low, high, old.shape).astype(old.dtype)
    nothing = {"segment_semantic": np.full((SIDE, SIDE), 1, np.uint8)}
    root = write_views(tmp_path / "data", **files | nothing)
    shutil.rmtree(root / "muleshoe" / "keypoints3d")
    arguments = [
        "benchmark",
        "few-shot",
        "--data",
        "taskonomy",
        "--root",
        str(root),
        "--shots",
        "2",
    ]
    arguments += [
        "--out",
        str(tmp_path / "x"),
        "--methods",
        "constant",
        "--repeats",
        "1",
        "--steps",
    ]
    assert main([*arguments, "1"]) == 0
    assert "left out: keypoints3d: keypoints3d is not there" in caplog.text
    assert "skipped segment_semantic/bed: 0 images for 2 shots, 0 test images" in caplog.text
    assert "buildings without images: allensville" in caplog.text
    finished = {path.name for path in (tmp_path / "x").iterdir()}
    assert {"normal", "depth_zbuffer", "reshading"} <= finished
    assert "keypoints3d" not in finished


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "taskonomy"], "needs --root"),
        (["--methods", "best"], "unknown method 'best'"),
        (["--methods", "few_shot:codebok=1"], "no option 'codebok': did you mean 'codebook'"),
        (["--methods", "constant:codebook=1"], "constant has no options"),
        (["--tasks", "colour"], "has no task 'colour'"),
        (["--report"], "has no finished unit"),
        (["--shots", "0"], "shots 0: give a whole number from 1 on"),
        (["--steps", "-3"], "steps -3: give a whole number from 1 on"),
        (["--minutes", "nan"], "nan minutes: give a number above 0"),
        (["--short-side", "-4"], "short side -4: give a whole number from 16 on"),
        (["--size", "0"], "size 0"),
        (["--preset", "native"], "--preset has no effect on --data rooms: leave it out"),
        (["--root", "."], "--root has no effect on --data rooms"),
        (["--data", "nyu", "--root", "."], "--max-images has no effect on --data nyu"),
        (["--shard", "0/0"], "give 0/N to N-1/N"),
        (["--reference", "best"], "--reference best: choose from auto"),
        (["--shots", "5000"], "no task has images for 5000 shots"),
        (["--shots", "5000", "--tasks", "normal"], "2000 images of normal for 5000 shots"),
    ],
)
def test_invalid_options_are_refused_in_one_line(
    arguments, message, embedded, tmp_path, capsys
) -> None:
    line = ["benchmark", "few-shot", "--out", str(tmp_path / "x"), "--max-images", "1", *arguments]
    assert main(line) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("diffsight: ")
    assert message in error
