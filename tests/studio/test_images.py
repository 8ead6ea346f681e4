"""Pictures of photographs are upright, have the right size, and need little memory."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffsight.datasets.files import read_image
from diffsight.errors import InputError
from diffsight.ops.resize import resize_image
from diffsight.studio import images
from diffsight.studio.images import Photograph, fit, list_photographs


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    planes = 255 * y / height, 255 * x / width, 127 + 100 * np.sin(x / width * 9)
    return np.stack(planes, axis=2).astype(np.uint8)


def photograph(path: Path) -> Photograph:
    return Photograph(0, path.name, path)


def test_names_are_sorted_and_the_workspace_is_skipped(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/c.png", ".diffsight/export/x.png", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert list_photographs(tmp_path) == ["a/c.png", "b.JPG"]


def test_files_of_a_workspace_inside_the_folder_are_no_photographs(tmp_path: Path) -> None:
    for name in ("a.png", "work/export/labels/a.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert list_photographs(tmp_path, tmp_path / "work") == ["a.png"]


@pytest.mark.parametrize(
    ("first", "second"), [("a.jpg", "a.png"), ("b/a.png", "b/A.PNG"), ("é.png", "é.webp")]
)
def test_images_whose_labels_would_have_the_same_name_are_refused(
    tmp_path: Path, first: str, second: str
) -> None:
    for name in (first, second, "other/a.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(InputError, match=r"would have the same name: rename one") as error:
        list_photographs(tmp_path)
    assert first in str(error.value)
    assert second in str(error.value)


@pytest.mark.parametrize("name", ["photos", "."])
def test_a_workspace_around_the_photographs_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match="contains the photographs: give another --work"):
        list_photographs(tmp_path / "photos", tmp_path / name)


@pytest.mark.parametrize("name", ["missing", "file", "empty"])
def test_a_folder_without_images_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="give the folder of your photographs"):
        list_photographs(tmp_path / name)


def test_the_size_follows_the_file_and_outlives_it(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(smooth(32, 48)).save(path)
    one = photograph(path)
    assert one.size == (48, 32)
    Image.fromarray(smooth(60, 40)).save(path)
    assert one.size == (40, 60)
    assert Image.open(io.BytesIO(one.picture(100))).size == (40, 60)
    path.unlink()
    assert one.size == (40, 60)
    with pytest.raises(InputError, match="cannot be read"):
        _ = photograph(path).size


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    Image.fromarray(smooth(160, 240)).save(path, exif=exif, quality=95)
    whole = read_image(path)
    one = photograph(path)
    assert one.size == (whole.shape[2], whole.shape[1])
    shown = np.array(Image.open(io.BytesIO(one.picture(80))))
    assert shown.shape[:2] == fit(one.size, 80)[::-1]
    expected = resize_image(whole[None].float(), shown.shape[:2])[0].permute(1, 2, 0)
    assert np.abs(shown - expected.numpy()).mean() < 4


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_damaged_exif_data_are_ignored(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(smooth(32, 64)).save(path, exif=b"Exif\0\0garbage")
    assert photograph(path).size == (64, 32)
    assert read_image(path).shape == (3, 32, 64)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_large_images_are_made_smaller_while_they_are_read(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_WHOLE_PIXELS", 1000)
    path = tmp_path / f"large.{suffix}"
    Image.fromarray(smooth(800, 1200)).save(path, quality=95)
    pixels = photograph(path).read(64)
    assert 128 <= pixels.shape[1] < 300  # at least twice the size of the backbone
    reduced = resize_image(pixels[None].float(), (64, 96))
    whole = resize_image(read_image(path)[None].float(), (64, 96))
    assert (reduced - whole).abs().mean() < 3


def test_small_images_are_read_as_predict_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    Image.fromarray(smooth(60, 80)).save(path)
    assert (photograph(path).read(32) == read_image(path)).all()


def test_a_small_picture_is_not_enlarged(tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    Image.fromarray(smooth(60, 80)).save(path)
    assert Image.open(io.BytesIO(photograph(path).picture(1600))).size == (80, 60)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\nxxxxxxx"])
def test_damaged_files_are_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    one = photograph(path)
    for use in (lambda: one.size, lambda: one.read(64), lambda: one.picture(64)):
        with pytest.raises(InputError, match=r"bad\.png") as error:
            use()
        assert "\n" not in str(error.value)


def test_a_file_that_is_cut_off_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    Image.fromarray(smooth(200, 200)).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    one = photograph(path)
    assert one.size == (200, 200)
    with pytest.raises(InputError, match=r"cut\.png: damaged or cut off"):
        one.picture(64)


def test_the_picture_follows_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_WHOLE_PIXELS", 1000)
    path = tmp_path / "a.png"
    Image.fromarray(smooth(60, 80)).save(path)
    one = photograph(path)
    first = one.picture(40)
    assert one.picture(40) is first  # kept, because it is large
    assert one.picture(20) != first
    Image.fromarray(smooth(60, 80)[::-1]).save(path)
    assert one.picture(40) != first


def test_the_hash_follows_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(smooth(60, 80)).save(path)
    one = photograph(path)
    first = one.content
    assert one.content == first
    Image.fromarray(smooth(62, 80)).save(path)
    assert one.content != first
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        _ = one.content
