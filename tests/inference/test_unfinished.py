"""Recognising what an interrupted run on a cluster has finished."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support_cli import photo
from tests.support_models import tiny

from diffsight.errors import InputError
from diffsight.inference import Predictor
from diffsight.inference.run_images import LoadedModel, predict_images
from diffsight.inference.storage import Url
from diffsight.inference.unfinished import (
    MARKER,
    UnfinishedRun,
    begin_run,
    end_interrupted_run,
    find_finished,
)
from diffsight.inference.write import Job

HOLD = """
import sys
from pathlib import Path
from diffsight.locks import claim_folder
with claim_folder(Path(sys.argv[1])):
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(photo(tmp_path / "a.png"), Path("sub/a"))


@pytest.fixture
def run(tmp_path: Path) -> UnfinishedRun:
    return begin_run(tmp_path / "out", {"plan": "p"})


@pytest.fixture
def one(tmp_path: Path) -> LoadedModel:
    notes = {"model": {"fingerprint": "f"}, "scene": None, "classes": ("a", "b")}
    return LoadedModel(Predictor(tiny()), tmp_path / "out", notes, None)


def predict(one: LoadedModel, job: Job, prompt: str | None = None) -> None:
    predict_images([job], [one], {job.name: prompt}, lambda folder, job, about: None)


def test_an_image_is_finished_after_its_results_are_written(
    run: UnfinishedRun, one: LoadedModel, job: Job
) -> None:
    assert find_finished(run, one, job, None) is None
    predict(one, job)
    about = find_finished(run, one, job, None)
    assert about == json.loads((one.out / "sub" / "a.json").read_text())


def test_an_image_is_not_finished_if_anything_has_changed(
    run: UnfinishedRun, one: LoadedModel, job: Job, tmp_path: Path
) -> None:
    predict(one, job)
    other = replace(one, notes={**one.notes, "model": {"fingerprint": "g"}})
    assert find_finished(run, other, job, None) is None
    assert find_finished(run, one, job, "another prompt") is None
    moved = replace(job, image=photo(tmp_path / "b.png"))
    assert find_finished(run, one, moved, None) is None
    assert find_finished(run, one, job, None) is not None
    photo(job.image)  # written again
    assert find_finished(run, one, job, None) is None


@pytest.mark.parametrize("name", ["a_depth.png", "a_colour.png", "a.json"])
def test_an_image_without_one_of_its_files_is_not_finished(
    name: str, run: UnfinishedRun, one: LoadedModel, job: Job
) -> None:
    predict(one, job)
    (one.out / "sub" / name).unlink()
    assert find_finished(run, one, job, None) is None


def test_results_of_an_earlier_complete_run_are_not_kept(
    run: UnfinishedRun, one: LoadedModel, job: Job, tmp_path: Path
) -> None:
    predict(one, job)
    run.finish()
    again = begin_run(tmp_path / "out", {"plan": "p"})
    assert not again.continues
    assert find_finished(again, one, job, None) is None


@pytest.mark.parametrize("storage", ["folder", "store"])
def test_a_run_continues_with_the_same_settings_only(storage: str, tmp_path: Path) -> None:
    out = tmp_path / "out" if storage == "folder" else Url("memory://continued/out")
    first = begin_run(out, {"plan": "p", "boxes": (1, 2)})
    second = begin_run(out, {"plan": "p", "boxes": (1, 2)})
    assert not first.continues
    assert second.continues
    assert second.token == first.token
    assert second.begin_s == first.begin_s
    third = begin_run(out, {"plan": "q", "boxes": (1, 2)})
    assert not third.continues
    assert third.token != first.token
    third.finish()
    assert not begin_run(out, {"plan": "q", "boxes": (1, 2)}).continues


def test_results_of_a_run_in_one_process_are_not_taken_for_those_of_an_interrupted_run(
    run: UnfinishedRun, tmp_path: Path
) -> None:
    end_interrupted_run(run.out)
    end_interrupted_run(tmp_path / "no folder")
    assert not begin_run(run.out, {"plan": "p"}).continues


def test_a_run_that_still_writes_is_not_ended(run: UnfinishedRun) -> None:
    assert isinstance(run.out, Path)
    command = [sys.executable, "-c", HOLD, str(run.out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(InputError, match="has been writing it since"):
            end_interrupted_run(run.out)
        other.communicate()
    run.require_visible()


def test_another_folder_at_the_same_path_is_refused(run: UnfinishedRun) -> None:
    run.require_visible()
    assert isinstance(run.out, Path)
    os.rename(run.out, run.out.with_name("moved"))
    with pytest.raises(InputError, match="does not see the folder"):
        run.require_visible()
    begin_run(run.out, {"plan": "p"})  # as on a machine with a folder of its own
    with pytest.raises(InputError, match="does not see the folder"):
        run.require_visible()
    assert (run.out / MARKER).is_file()
