"""Films: frames, times, turns, damage, and films that are written."""

import sys
import weakref
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support_films import noisy_scene, read_times, stack, write_film, write_sound
from tests.support_inference import Brightness, model

import diffsight
from diffsight.errors import InputError
from diffsight.inference import video
from diffsight.inference.video import DamagedFilmError, Film, FilmWriter, join_films, read_frames


@pytest.mark.parametrize(
    ("name", "codec", "error"),
    [
        ("a.mp4", "libx264", 3),
        ("a.mkv", "libx264", 3),
        ("a.avi", "mpeg4", 60),
        ("b.mkv", "ffv1", 3),
    ],
)
def test_frames_of_all_codecs_are_read_in_order(
    name: str, codec: str, error: int, tmp_path: Path
) -> None:
    flat = [np.full((32, 48, 3), 20 * i + 15, np.uint8) for i in range(11)]
    path = write_film(tmp_path / name, flat, codec=codec)
    read = stack(list(read_frames(path)))
    assert read.shape == (11, 32, 48, 3)
    differences = np.abs(read - np.stack(flat))
    assert differences.max() <= error
    assert (np.diff(read.mean(axis=(1, 2, 3))) > 10).all()


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize("mirror", [False, True])
def test_turned_and_mirrored_films_are_upright(degrees: int, mirror: bool, tmp_path: Path) -> None:
    stored = noisy_scene(2, noise=0)
    path = write_film(tmp_path / "a.mp4", stored, turn=(degrees, mirror, False))
    (first, _) = read_frames(path)
    upright = np.rot90(stored[0].astype(int), degrees // 90)
    upright = upright[:, ::-1] if mirror else upright
    assert np.abs(stack([first])[0] - upright).max() <= 3


def test_times_of_a_variable_frame_rate_are_kept(tmp_path: Path) -> None:
    times = [100 * i * i for i in range(8)]
    path = write_film(tmp_path / "a.mp4", noisy_scene(8), times=times)
    with Film(path) as film:
        frames = list(film)
        assert [frame.timestamp * film.unit_s for frame in frames] == [
            Fraction(time, 12_800) for time in times
        ]
        assert film.frame_count == 8
    assert [frame.number for frame in frames] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [frame.time_s for frame in frames] == pytest.approx([t / 12_800 for t in times])


def test_frames_are_read_one_after_another(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", noisy_scene(30))
    frames = []
    for frame in read_frames(path):
        frames.append(weakref.ref(frame))
        assert sum(one() is not None for one in frames) <= 2
    assert len(frames) == 30


def test_a_film_that_was_cut_off_has_frames_and_then_an_error(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", noisy_scene(40), options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    read = []
    with pytest.raises(DamagedFilmError) as raised:
        read.extend(read_frames(path))
    assert 5 < len(read) < 35
    assert str(raised.value).startswith(f"{path}: damaged after frame {len(read)} at ")
    assert "the end of the file is missing" in str(raised.value)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.avi", "mpeg4")])
def test_a_film_with_damage_inside_has_the_frames_before_it(
    name: str, codec: str, tmp_path: Path
) -> None:
    scene = noisy_scene(40, 64, 80)
    path = write_film(tmp_path / name, scene, codec=codec)
    whole = list(read_frames(path))
    data = bytearray(path.read_bytes())
    middle, rng = len(data) // 2, np.random.default_rng(0)
    data[middle : middle + 4000] = rng.integers(0, 256, 4000, dtype=np.uint8).tobytes()
    path.write_bytes(data)
    read = []
    with pytest.raises(DamagedFilmError, match="damaged after frame"):
        read.extend(read_frames(path))
    assert 10 < len(read) < 40
    assert all(torch.equal(one, other) for one, other in zip(read, whole, strict=False))


@pytest.mark.parametrize("content", [b"", b"hello" * 500])
def test_files_of_other_kinds_are_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.mp4: not a film that can be read") as raised:
        list(read_frames(path))
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match=r"gone\.mp4: not a film .*\(no such file"):
        list(read_frames(tmp_path / "gone.mp4"))


def test_films_without_pictures_are_refused(tmp_path: Path) -> None:
    sound = write_sound(tmp_path / "a.mp4")
    with pytest.raises(InputError, match=r"a\.mp4: has no video stream"):
        list(read_frames(sound))
    path = tmp_path / "b.avi"
    whole = write_film(tmp_path / "c.avi", noisy_scene(1), codec="mpeg4").read_bytes()
    path.write_bytes(whole[: whole.index(b"movi") + 4])
    with pytest.raises(InputError, match=r"b\.avi: (contains no frame|damaged from its first)"):
        list(read_frames(path))


def test_frames_that_are_too_small_are_refused(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", noisy_scene(2, 8, 40))
    with pytest.raises(InputError, match=r"a\.mp4: 40 x 8 pixels"):
        list(read_frames(path))


def test_without_pyav_one_line_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError) as raised:
        next(read_frames(tmp_path / "a.mp4"))
    assert str(raised.value) == "av is not installed: pip install 'diffsight[video]'"


@pytest.mark.parametrize("encoder", ["libx264", "mpeg4"])
@pytest.mark.parametrize("hw", [(32, 48), (33, 47)])
@pytest.mark.parametrize("unit_s", [Fraction(1, 12_800), Fraction(1, 90_000)])
def test_written_parts_join_to_a_film_with_all_times(
    encoder: str,
    hw: tuple[int, int],
    unit_s: Fraction,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(video, "ENCODERS", {encoder: video.ENCODERS[encoder]})
    colours = torch.tensor([[200, 40, 90], [30, 180, 60], [70, 70, 220]], dtype=torch.uint8)
    parts = [tmp_path / "1.nut", tmp_path / "2.nut"]
    times = [0, 3000, 4500, 9000, 9030, 18000]
    for number, part in enumerate(parts):
        with FilmWriter(part, hw, unit_s, Fraction(25), Fraction(4, 3)) as writer:
            for i in range(3):
                writer.add(colours[i, :, None, None].expand(3, *hw), times[3 * number + i])
    join_films(parts, tmp_path / "a.mp4")
    assert read_times(tmp_path / "a.mp4") == pytest.approx(
        [float(time * unit_s) for time in times], abs=1 / 60_000
    )
    with Film(tmp_path / "a.mp4") as film:
        read = stack([frame.image for frame in film])
        assert film.pixel_aspect == Fraction(4, 3)
        assert film._stream.codec_context.name == {"libx264": "h264"}.get(encoder, encoder)
    assert read.shape == (6, *hw, 3)
    centres = read[:, hw[0] // 2, hw[1] // 2]
    assert np.abs(centres - np.tile(colours.numpy().astype(int), (2, 1))).max() <= 8


def test_a_pipeline_reads_the_frames_of_a_film_as_a_stream(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", noisy_scene(3))
    predict = diffsight.pipeline(model(Brightness), device="cpu")
    predictions = list(predict(read_frames(path)))
    frames = list(read_frames(path))
    for prediction, frame in zip(predictions, frames, strict=True):
        assert torch.equal(prediction.depth_m, predict(frame).depth_m)
