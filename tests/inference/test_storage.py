"""Reading from and writing to object stores, with fsspec's store in memory."""

import pickle
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
import torch
from tests.support_cli import photo

from diffsight.datasets.files import read_image
from diffsight.errors import InputError
from diffsight.inference import storage
from diffsight.inference.storage import Url


@pytest.mark.parametrize("text", ["s3://bucket/a/b.jpg", "memory://a/b.jpg", "file:///tmp/b.jpg"])
def test_a_url_stays_the_same_as_text_in_a_pickle_and_below_its_parent(text: str) -> None:
    url = Url(text)
    assert str(url) == text
    assert pickle.loads(pickle.dumps(url)) == url
    assert str(url.parent / url.name) == text
    assert url.suffix == ".jpg"


def test_a_location_is_a_path_or_a_url() -> None:
    assert storage.parse_location("a/b") == Path("a/b")
    assert storage.parse_location("memory://a") == Url("memory://a")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("s3://bucket/x", "s3://bucket/x: s3fs is not installed: pip install s3fs"),
        ("foo://x", "foo://x: Protocol not known: foo: give a path, or a URL with s3://"),
    ],
)
def test_a_store_without_its_package_is_refused_in_one_line(
    location: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(InputError) as caught:
        storage.parse_location(location)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_files_of_a_folder_and_a_pattern_are_listed_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("a.jpg", "sub/b.jpg", ".hidden/c.jpg", "sub/.d.jpg", "e.txt"):
        path = tmp_path / ".photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    folder = Url(f"file://{tmp_path}/.photos")
    listed = storage.list_files(folder)
    assert listed == [folder / name for name in ("a.jpg", "e.txt", "sub/b.jpg")]
    assert storage.list_files(folder / "*.jpg") == [folder / "a.jpg"]
    assert storage.list_files(folder / "a.jpg") is None


def test_an_image_of_a_store_has_the_pixels_of_the_file(tmp_path: Path) -> None:
    path, url = photo(tmp_path / "a.png"), Url("memory://pixels/a.png")
    fsspec.filesystem("memory").pipe_file("/pixels/a.png", path.read_bytes())
    assert torch.equal(storage.read_image(url), read_image(path))


@pytest.mark.parametrize("data", [b"", b"hello", None])
def test_an_unusable_image_of_a_store_is_named_by_its_url(data: bytes | None) -> None:
    url = Url("memory://unusable/a.png")
    if data is not None:
        fsspec.filesystem("memory").pipe_file("/unusable/a.png", data)
    with pytest.raises(InputError, match=r"^memory://unusable/a\.png: "):
        storage.read_image(url)
    storage.remove(url)


def test_a_file_replaces_another_only_when_it_is_complete() -> None:
    url = Url("memory://replaced/a.txt")
    with storage.replacing(url) as partial:
        partial.write_text("first")
    with pytest.raises(ZeroDivisionError), storage.replacing(url) as partial:
        partial.write_text(f"{1 / 0}")
    assert storage.read_bytes(url) == b"first"
    storage.remove(url)
    assert not storage.exists(url)
    storage.remove(url)  # is already gone


def test_a_store_that_cannot_be_written_is_reported_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise KeyError("no such\nbucket")  # the libraries of stores have errors of their own

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.put_file", refuse)
    with (
        pytest.raises(InputError, match=r"^memory://b/x: cannot be written \(.*no such.*bucket"),
        storage.replacing(Url("memory://b/x")),
    ):
        pass


def test_prediction_of_a_file_loads_no_library_of_stores_clusters_or_exports() -> None:
    program = "import sys, diffsight.inference.run_images, diffsight.cli.predict\n"
    program += "print({'fsspec', 'ray', 'onnx', 'onnxruntime', 'diffusers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"set()"
