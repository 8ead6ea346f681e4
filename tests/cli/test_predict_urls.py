"""``diffsight predict`` with images and results in object stores."""

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from tests.support_cli import photo
from tests.support_cli import predict as run

STORE = fsspec.filesystem("memory")


@pytest.fixture(autouse=True)
def empty_store() -> Iterator[None]:
    yield
    STORE.store.clear()
    STORE.pseudo_dirs[:] = [""]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of images, which are in the store too."""
    for name in ("a.png", "trip/a.png", "trip/b_1.png"):
        path = photo(tmp_path / "photos" / name)
        STORE.pipe_file(f"/photos/{name}", path.read_bytes())
    return tmp_path / "photos"


def files_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def stored_files(folder: str) -> dict[str, bytes]:
    return {name.removeprefix(f"{folder}/"): STORE.cat_file(name) for name in STORE.find(folder)}


def without_image(files: dict[str, bytes]) -> dict[str, object]:
    """Return files; JSON files without the entry ``image``."""
    contents: dict[str, object] = dict(files)
    for name in files:
        if name.endswith(".json"):
            contents[name] = {k: v for k, v in json.loads(files[name]).items() if k != "image"}
    return contents


def test_results_in_a_store_are_those_in_a_folder(
    depth_model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(depth_model, photos, "--out", tmp_path / "out") == 0
    capsys.readouterr()
    assert run(depth_model, "memory://photos", "--out", "memory://out/depth", "--json") == 0
    wanted, results = files_of(tmp_path / "out"), stored_files("/out/depth")
    assert without_image(results) == without_image(wanted)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == [
        f"memory://photos/{name}" for name in ("a.png", "trip/a.png", "trip/b_1.png")
    ]
    assert lines[1]["folder"] == "memory://out/depth/trip"


def test_images_of_a_folder_are_written_to_a_store(
    depth_model: Path, photos: Path, tmp_path: Path
) -> None:
    assert run(depth_model, photos, "--out", tmp_path / "out") == 0
    assert run(depth_model, photos, "--out", "memory://out") == 0
    assert stored_files("/out") == files_of(tmp_path / "out")


def test_results_of_an_earlier_run_are_no_images_and_are_replaced(
    depth_model: Path, photos: Path
) -> None:
    for _ in range(2):
        assert run(depth_model, "memory://photos", "--out", "memory://photos") == 0
    assert len(STORE.find("/photos")) == 3 + 3 * 3


def test_a_json_file_of_another_program_is_not_overwritten(
    depth_model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    STORE.pipe_file("/out/a.json", b"{}")
    assert run(depth_model, "memory://photos/a.png", "--out", "memory://out") == 1
    assert "memory://out/a.json: exists already" in capsys.readouterr().err
    assert stored_files("/out") == {"a.json": b"{}"}


def test_images_that_cannot_be_used_are_lines(
    depth_model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    STORE.pipe_file("/photos/cut.png", STORE.cat_file("/photos/a.png")[:200])
    gone = "memory://photos/gone.png"
    out = ("--out", "memory://out", "--json")
    assert run(depth_model, "memory://photos/*.png", gone, *out) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    errors = [line["error"] for line in lines if "error" in line]
    assert len(lines) == 3
    assert errors[0].startswith("memory://photos/cut.png: damaged")
    assert errors[1].startswith("memory://photos/gone.png: does not exist")


def test_a_folder_without_images_and_mixed_inputs_are_refused(
    depth_model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(depth_model, "memory://photos/*.txt", "--out", "memory://out") == 2
    assert "memory://photos/*.txt: no images" in capsys.readouterr().err
    assert run(depth_model, "memory://photos", photos, "--out", "memory://out") == 2
    assert "run the command once for each" in capsys.readouterr().err


def test_captions_and_films_are_refused(
    depth_model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = tmp_path / "captions.json"
    captions.write_text("{}")
    words = ("--out", "memory://out", "--captions", captions)
    assert run(depth_model, "memory://photos", *words) == 2
    assert "captions.json is for images of this machine, not for URLs" in capsys.readouterr().err
    STORE.pipe_file("/photos/clip.mp4", b"film")
    assert run(depth_model, "memory://photos/clip.mp4", "--out", tmp_path / "out") == 2
    assert "clip.mp4: films need folders of this machine" in capsys.readouterr().err
    assert not STORE.exists("/out")
