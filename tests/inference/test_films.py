"""Result files of films: frames as images, the overlay, the JSON file, and unfinished runs."""

import json
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support_films import noisy_scene, read_times, stack, write_film
from tests.support_inference import Brightness, model

from diffsight.errors import InputError
from diffsight.inference import Plan, Predictor
from diffsight.inference.film_files import (
    FilmFiles,
    is_film_result,
    is_overlay,
    read_entries,
    write_record,
)
from diffsight.inference.films import PART_FRAMES, FilmRequest, FilmResults, predict_film
from diffsight.inference.video import Film, read_frames
from diffsight.inference.write import Job, find_images, write_prediction


class KilledError(BaseException):
    """Ends a run as a signal does."""


def run(
    path: Path,
    out: Path,
    request: FilmRequest | None = None,
    plan: Plan | None = None,
    advance: Callable[[int], None] = lambda frames: None,
) -> dict[str, Any]:
    """Predict a film; return the contents of its JSON file."""
    predictor = Predictor(model(Brightness), plan)
    with Film(path) as film:
        about = predict_film(predictor, film, out / path.stem, request or FilmRequest(), advance)
    record = out / f"{path.stem}.json"
    written = json.loads(record.read_text())
    assert list(read_entries(record)) == written["frames"]
    assert {**about, "frames": written["frames"]} == written
    return written


def contents(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def stop_after(frames: int, error: type[BaseException]) -> Callable[[int], None]:
    """Return a function for ``advance`` that raises an error after a number of frames."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if done >= frames:
            raise error

    return advance


def test_without_smoothing_the_files_of_frames_are_those_of_images(tmp_path: Path) -> None:
    path = write_film(tmp_path / "clip.mp4", noisy_scene(5))
    about = run(path, tmp_path / "out", plan=Plan(batch_size=2))
    predictor, images = Predictor(model(Brightness)), tmp_path / "images"
    for number, frame in enumerate(read_frames(path), 1):
        job = Job(tmp_path / "x.png", Path(f"clip_{number:06d}"))
        write_prediction(predictor.one(frame), images, job, {}, frame)
        note = json.loads((images / f"clip_{number:06d}.json").read_text())
        (images / f"clip_{number:06d}.json").unlink()
        assert {**about, **about["frames"][number - 1], **note, "image": ""} == {
            **about,
            **about["frames"][number - 1],
            "image": "",
        }
    assert contents(tmp_path / "out" / "clip_frames") == contents(images)
    assert {one.name for one in (tmp_path / "out").iterdir()} == {
        *("clip.json", "clip_frames", "clip_overlay.mp4")
    }


def test_the_json_file_describes_the_film_and_every_frame(tmp_path: Path) -> None:
    times = [512 * i + 30 * i * i for i in range(6)]
    path = write_film(tmp_path / "clip.mp4", noisy_scene(6), times=times)
    request = FilmRequest(smoothing=0.5, notes={"plan": "own size"})
    about = run(path, tmp_path / "out", request)
    assert about["film"] == str(path)
    assert about["overlay"] == "clip_overlay.mp4"
    assert about["frames_folder"] == "clip_frames"
    assert about["frame_count"] == 6
    assert about["smoothing"] == 0.5
    assert about["plan"] == "own size"
    assert about["size"] == [40, 32]  # the same for all frames
    assert about["unit"] == "mm"
    assert [one["frame"] for one in about["frames"]] == [1, 2, 3, 4, 5, 6]
    assert [one["time_s"] for one in about["frames"]] == pytest.approx(
        [t / 12_800 for t in times], abs=1e-6
    )
    for one in about["frames"]:
        assert (tmp_path / "out" / "clip_frames" / one["depth"]).is_file()
        assert one["depth_m"]["min"] >= 1


def test_the_overlay_has_the_size_and_the_times_of_the_film(tmp_path: Path) -> None:
    times = [100 * i * i for i in range(1, 8)]
    scene = noisy_scene(7, 33, 47, noise=0)
    path = write_film(tmp_path / "clip.mp4", scene, times=times)
    run(path, tmp_path / "out")
    overlay = tmp_path / "out" / "clip_overlay.mp4"
    assert read_times(overlay) == pytest.approx([(t - 100) / 12_800 for t in times], abs=1e-4)
    read = stack(list(read_frames(overlay)))
    assert read.shape == (7, 33, 47, 3)
    colour = tmp_path / "out" / "clip_frames" / "clip_000001_colour.png"
    from PIL import Image

    expected = (scene[0].astype(int) + np.asarray(Image.open(colour)).astype(int)) / 2
    assert np.abs(read[0] - expected).mean() < 8


def test_only_the_overlay_is_written_on_request(tmp_path: Path) -> None:
    path = write_film(tmp_path / "clip.mp4", noisy_scene(3))
    about = run(path, tmp_path / "out", FilmRequest(overlay_only=True))
    assert {one.name for one in (tmp_path / "out").iterdir()} == {"clip.json", "clip_overlay.mp4"}
    assert about["frames_folder"] is None
    assert "depth_m" in about["frames"][0]
    assert "depth" not in about["frames"][0]


def test_the_json_file_is_that_of_all_entries_at_once(tmp_path: Path) -> None:
    path = tmp_path / "clip.json"
    for frames in ([], [{"frame": 1, "names": {"a": [1, {}]}, "empty": []}, {"é": "\u2028\n  }"}]):
        about = {"film": "ü.mp4", "common": [1.5, {"x": [], "frames": ["  {"]}]}
        write_record(path, about, iter(frames))
        assert path.read_text() == json.dumps({**about, "frames": frames}, indent=1) + "\n"
        assert list(read_entries(path)) == frames


def test_only_the_frames_of_the_open_part_are_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their metadata may be large: 30 kB with 150 classes."""
    path = write_film(tmp_path / "clip.mp4", noisy_scene(2 * PART_FRAMES + 5))
    loads, alive, counts = json.loads, [], []

    class Entry(dict[str, Any]):
        """A dictionary whose life can be followed."""

    def tracked(text: str | bytes, **options: Any) -> Any:
        loaded = loads(text, **options)
        if isinstance(loaded, dict) and "frame" in loaded:
            loaded = Entry(loaded)
            alive.append(weakref.ref(loaded))
            counts.append(sum(one() is not None for one in alive))
        return loaded

    monkeypatch.setattr("diffsight.inference.films.json.loads", tracked)
    with Film(path) as film:
        predict_film(Predictor(model(Brightness)), film, tmp_path / "out" / "clip", FilmRequest())
    monkeypatch.undo()
    about = json.loads((tmp_path / "out" / "clip.json").read_text())
    assert len(about["frames"]) == 2 * PART_FRAMES + 5
    assert max(counts) <= PART_FRAMES + 1


@pytest.mark.parametrize("length", [238, 245, 250])
def test_a_name_that_is_too_long_is_refused(length: int, tmp_path: Path) -> None:
    path = write_film(tmp_path / f"{'x' * length}.mp4", noisy_scene(2))
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=r"cannot be written \(File name too long\)") as caught:
        run(path, tmp_path / "out")
    assert length < 245 or "give it a shorter name" in str(caught.value)
    assert list(tmp_path.glob("out/*")) == []


@pytest.mark.parametrize("smoothing", [0.0, 0.8])
@pytest.mark.parametrize("overlay_only", [False, True])
def test_a_killed_run_continues_and_its_results_are_those_of_one_run(
    smoothing: float, overlay_only: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_film(tmp_path / "clip.mp4", noisy_scene(2 * PART_FRAMES + 5))
    request = FilmRequest(smoothing=smoothing, overlay_only=overlay_only)
    whole = run(path, tmp_path / "whole", request)
    out, plan = tmp_path / "out", Plan(batch_size=3)
    with monkeypatch.context() as patch:
        patch.setattr(FilmResults, "__exit__", lambda *_: None)  # as after SIGKILL
        with pytest.raises(KilledError):
            run(path, out, request, plan, stop_after(PART_FRAMES + 8, KilledError))
    assert not (out / "clip.json").exists()
    steps: list[int] = []
    assert run(path, out, request, plan, steps.append) == whole
    assert steps[0] == PART_FRAMES  # those of the killed run
    assert len(steps) == 1 + PART_FRAMES + 5
    assert contents(out) == contents(tmp_path / "whole")


def test_an_interrupted_run_keeps_all_its_frames(tmp_path: Path) -> None:
    path = write_film(tmp_path / "clip.mp4", noisy_scene(12))
    request = FilmRequest(smoothing=0.8)
    whole = run(path, tmp_path / "whole", request)
    for frames in (5, 9):
        with pytest.raises(KeyboardInterrupt):
            run(path, tmp_path / "out", request, advance=stop_after(frames, KeyboardInterrupt))
    steps: list[int] = []
    assert run(path, tmp_path / "out", request, advance=steps.append) == whole
    assert steps == [9, 1, 1, 1]
    frames = tmp_path / "out" / "clip_frames"
    assert contents(frames) == contents(tmp_path / "whole" / "clip_frames")
    assert read_times(tmp_path / "out" / "clip_overlay.mp4") == read_times(path)


@pytest.mark.parametrize("change", ["smoothing", "detector", "film"])
def test_an_unfinished_run_with_other_settings_starts_again(change: str, tmp_path: Path) -> None:
    path = write_film(tmp_path / "clip.mp4", noisy_scene(8))
    with pytest.raises(KeyboardInterrupt):
        run(path, tmp_path / "out", advance=stop_after(6, KeyboardInterrupt))
    options = {"smoothing": {"smoothing": 0.5}, "detector": {"detector": "other"}, "film": {}}
    request = FilmRequest(**options[change])
    if change == "film":
        time.sleep(0.02)
        write_film(path, noisy_scene(4))
    steps: list[int] = []
    about = run(path, tmp_path / "out", request, advance=steps.append)
    assert steps[0] == 0
    count = 4 if change == "film" else 8
    assert about["frame_count"] == count
    assert len(list((tmp_path / "out" / "clip_frames").glob("*_depth.png"))) == count


def test_two_runs_do_not_write_the_results_of_a_film_at_once(tmp_path: Path) -> None:
    path, out = write_film(tmp_path / "clip.mp4", noisy_scene(4)), tmp_path / "out"
    whole = run(path, tmp_path / "whole")

    def begin_second_run(count: int) -> None:
        with pytest.raises(InputError, match=r"clip\.json: process \d+ on .* has been writing it"):
            run(path, out)

    assert run(path, out, advance=begin_second_run) == whole
    assert contents(out) == contents(tmp_path / "whole")


def test_a_complete_run_is_replaced(tmp_path: Path) -> None:
    path = write_film(tmp_path / "clip.mp4", noisy_scene(6))
    run(path, tmp_path / "out")
    write_film(path, noisy_scene(3))
    run(path, tmp_path / "out")
    assert len(list((tmp_path / "out" / "clip_frames").glob("*_depth.png"))) == 3
    run(path, tmp_path / "out", FilmRequest(overlay_only=True))
    assert not (tmp_path / "out" / "clip_frames").exists()


@pytest.mark.parametrize("name", ["clip.json", "clip_overlay.mp4", "clip_frames/notes.txt"])
def test_other_files_are_not_replaced(name: str, tmp_path: Path) -> None:
    path = write_film(tmp_path / "clip.mp4", noisy_scene(3))
    own = tmp_path / name
    own.parent.mkdir(exist_ok=True)
    own.write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(InputError, match="exists already and is not of an earlier run"):
        run(path, tmp_path)
    assert contents(tmp_path) == before


def test_a_damaged_film_has_results_up_to_the_damage(tmp_path: Path) -> None:
    path = write_film(tmp_path / "clip.mp4", noisy_scene(40), options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    about = run(path, tmp_path / "out")
    count = about["frame_count"]
    assert 5 < count < 35
    assert f"damaged after frame {count} at " in about["damage"]
    assert len(read_times(tmp_path / "out" / "clip_overlay.mp4")) == count


def test_a_film_that_cannot_be_used_leaves_nothing_behind(tmp_path: Path) -> None:
    path = write_film(tmp_path / "clip.mp4", noisy_scene(2, 8, 40))
    with pytest.raises(InputError, match="40 x 8 pixels"):
        run(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_results_of_films_are_not_inputs_of_the_next_run(tmp_path: Path) -> None:
    path = write_film(tmp_path / "clip.mp4", noisy_scene(3))
    run(path, tmp_path)
    overlay, frame = (
        tmp_path / "clip_overlay.mp4",
        FilmFiles(tmp_path / "clip").frame(1, "colour.png"),
    )
    assert is_overlay(overlay)
    assert is_film_result(frame)
    assert [job.image for job in find_images([str(tmp_path)], films=True)] == [path]
    (tmp_path / "clip.json").unlink()
    found = {job.image for job in find_images([str(tmp_path)], films=True)}
    assert {path, overlay, frame} <= found


def test_images_in_a_folder_with_a_long_name_are_found(tmp_path: Path) -> None:
    image = tmp_path / f"{'x' * 248}_frames" / "a.png"
    image.parent.mkdir()
    image.touch()
    assert [job.image for job in find_images([str(tmp_path)])] == [image]


def test_films_and_images_of_one_folder_have_different_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.support_cli import photo

    photo(tmp_path / "clip.jpg")
    photo(tmp_path / "trip" / "a.png")
    write_film(tmp_path / "clip.mp4", noisy_scene(2))
    names = {str(job.name) for job in find_images([str(tmp_path)], films=True)}
    assert names == {"clip.jpg", "clip.mp4", "trip/a"}
    assert {str(job.name) for job in find_images([str(tmp_path)])} == {"clip", "trip/a"}
    monkeypatch.setattr("diffsight.inference.write.can_read_films", lambda: False)
    with caplog.at_level("INFO"):
        assert {str(job.name) for job in find_images([str(tmp_path)], films=True)} == {
            "clip",
            "trip/a",
        }
    assert "1 film (clip.mp4: pip install 'diffsight[video]') skipped" in caplog.text
    (tmp_path / "clip.jpg").unlink()
    (tmp_path / "trip" / "a.png").unlink()
    with pytest.raises(InputError, match=r"1 film \(clip\.mp4: pip install 'diffsight\[video\]'\)"):
        find_images([str(tmp_path)], films=True)
