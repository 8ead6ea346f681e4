"""``diffsight predict`` on films: files, messages, options, and folders with images."""

import json
import sys
from pathlib import Path

import pytest
from tests.support_cli import photo
from tests.support_cli import predict as run
from tests.support_films import noisy_scene, read_times, write_film, write_sound

from diffsight import cli
from diffsight.inference.films import FilmResults


def test_films_and_images_of_a_folder_are_predicted(
    depth_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "trip", tmp_path / "out"
    photo(root / "a.jpg")
    film = write_film(root / "day" / "clip.mp4", noisy_scene(3))
    assert run(depth_model, root, "--out", out, "--smoothing", "0.8", "--json") == 0
    printed = capsys.readouterr()
    image, about = map(json.loads, printed.out.splitlines())
    assert image["image"] == str(root / "a.jpg")
    assert "smoothing" not in image
    folder = out / "day"
    written = {"folder": str(folder), **json.loads((folder / "clip.json").read_text())}
    assert printed.out.splitlines()[1] == json.dumps(written)
    assert about["film"] == str(film)
    assert about["smoothing"] == 0.8
    assert about["plan"] == "own size, whole image, no flip"
    assert about["frame_rate"] == 25
    assert about["model"]["id"] == str(depth_model)
    assert "1 of 1 images" in printed.err
    assert f"{film}: 3 frames -> {folder / 'clip_overlay.mp4'}" in printed.err
    assert len(read_times(folder / "clip_overlay.mp4")) == 3
    files = {path.name for path in (folder / "clip_frames").iterdir()}
    ends = ("depth.png", "colour.png")
    assert files == {f"clip_{n:06d}_{end}" for n in (1, 2, 3) for end in ends}


def test_results_can_be_written_next_to_the_film(depth_model: Path, tmp_path: Path) -> None:
    write_film(tmp_path / "clip.mp4", noisy_scene(2))
    for _ in range(2):
        assert run(depth_model, tmp_path, "--out", tmp_path, "--overlay-only") == 0
        assert {path.name for path in tmp_path.iterdir()} == {
            *("clip.mp4", "clip.json", "clip_overlay.mp4")
        }


def test_films_that_cannot_be_used_are_reported_in_one_line_each(
    depth_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "films", tmp_path / "out"
    good = write_film(root / "good.mp4", noisy_scene(2))
    cut = write_film(root / "cut.mp4", noisy_scene(30), options={"movflags": "faststart"})
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 3])
    write_sound(root / "sound.mp4")
    (root / "text.mp4").write_text("hello")
    assert run(depth_model, root, root / "gone.mp4", "--out", out, "--json") == 1
    printed = capsys.readouterr()
    lines = {Path(line["film"]).name: line for line in map(json.loads, printed.out.splitlines())}
    assert "no video stream" in lines["sound.mp4"]["error"]
    assert "not a film that can be read" in lines["text.mp4"]["error"]
    assert "no such file" in lines["gone.mp4"]["error"]
    count = lines["cut.mp4"]["frame_count"]
    assert f"{cut}: damaged after frame {count} at" in lines["cut.mp4"]["damage"]
    assert lines["good.mp4"]["frame_count"] == 2
    for line in lines.values():
        message = line.get("error") or line.get("damage")
        assert message is None or printed.err.splitlines().count(message) == 1
    assert {path.name for path in out.glob("*.json")} == {"cut.json", "good.json"}
    assert f"{good}: 2 frames" in printed.err
    assert not list(out.glob(".*"))


def test_several_models_have_a_folder_each(depth_model: Path, tmp_path: Path) -> None:
    import shutil

    film, other = write_film(tmp_path / "clip.mp4", noisy_scene(2)), tmp_path / "other"
    shutil.copytree(depth_model, other)
    out = tmp_path / "out"
    assert run(depth_model, film, "--model", other, "--out", out, "--overlay-only") == 0
    assert (out / depth_model.name / "clip_overlay.mp4").is_file()
    assert (out / "other" / "clip_overlay.mp4").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--smoothing", "1"], "--smoothing 1: give 0, or a number below 1"),
        (["--captions", "c.json"], "clip.mp4: --captions is for images"),
        (["--steps", "1,3"], "clip.mp4: give one number of --steps for a film"),
        (["--boxes", "b.json"], "clip.mp4: --boxes is for images"),
        (["--model", "nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_options_that_films_cannot_use_are_refused_in_one_line(
    arguments: list[str],
    message: str,
    depth_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    film, captions = write_film(tmp_path / "clip.mp4", noisy_scene(2)), tmp_path / "c.json"
    captions.write_text(json.dumps({"data": "images", "captioner": "", "captions": {}}))
    arguments = [str(captions) if one == "c.json" else one for one in arguments]
    out = tmp_path / "out"
    assert run(depth_model, film, "--out", out, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("option", [["--smoothing", "0.5"], ["--overlay-only"]])
def test_options_for_films_are_refused_for_images(
    option: list[str], depth_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = photo(tmp_path / "a.png")
    assert run(depth_model, image, "--out", tmp_path / "out", *option) == 2
    assert f"{option[0]} is for films: leave it out, or give a film" in capsys.readouterr().err


def test_without_pyav_a_film_is_refused_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    film = write_film(tmp_path / "clip.mp4", noisy_scene(2))
    monkeypatch.setitem(sys.modules, "av", None)
    assert run(tmp_path / "no-model", film, "--out", tmp_path / "out") == 3
    error = capsys.readouterr().err
    assert error == "diffsight: av is not installed: pip install 'diffsight[video]'\n"


def test_an_interrupted_film_continues_with_the_same_command(
    depth_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    film, out = write_film(tmp_path / "clip.mp4", noisy_scene(6)), tmp_path / "out"
    add, numbers = FilmResults.add, []

    def interrupted(self: FilmResults, frame, prediction) -> None:
        numbers.append(frame.number)
        if len(numbers) == 4:
            raise KeyboardInterrupt
        add(self, frame, prediction)

    monkeypatch.setattr(FilmResults, "add", interrupted)
    assert run(depth_model, film, "--out", out, "--smoothing", "0.8") == 130
    assert f"{film}: interrupted; the same command continues" in capsys.readouterr().err
    assert run(depth_model, film, "--out", out, "--smoothing", "0.8") == 0
    assert numbers == [1, 2, 3, 4, 4, 5, 6]
    about = json.loads((out / "clip.json").read_text())
    assert [one["frame"] for one in about["frames"]] == [1, 2, 3, 4, 5, 6]


def test_a_film_with_too_little_memory_is_reported_and_continues_with_a_smaller_batch(
    depth_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from diffsight.model import DenseModel

    forward = DenseModel.forward

    def limited(self: DenseModel, inputs, *args, **options):
        if inputs.image.shape[0] > 1:
            raise MemoryError
        return forward(self, inputs, *args, **options)

    monkeypatch.setattr(DenseModel, "forward", limited)
    film, out = write_film(tmp_path / "clip.mp4", noisy_scene(3)), tmp_path / "out"
    assert run(depth_model, film, "--out", out, "--batch-size", "2") == 1
    assert "choose a smaller --short-side or --batch-size" in capsys.readouterr().err
    assert run(depth_model, film, "--out", out) == 0


def test_help_describes_films(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["predict", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--smoothing" in text
    assert "--overlay-only" in text
    assert "NAME_overlay.mp4" in text
