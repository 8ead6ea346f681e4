"""A model folder that tests may change, and a fake hub that serves it."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def pipeline(pipeline_folder: Path, tmp_path: Path) -> Path:
    """Return a Stable Diffusion folder with a text and a vision tower."""
    return shutil.copytree(pipeline_folder, tmp_path / "model")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that is used as the cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


class FakeHub:
    """A fake hub with one model, whose files are those of a folder.

    Attributes:
        fetched: files that were downloaded.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: list[str] = []

    def list_repo_files(self, name: str, *, revision: str | None) -> list[str]:
        assert name == "owner/model"
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.folder).as_posix() for path in files)

    def download(self, name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert name == "owner/model"
        self.fetched += allow_patterns
        return str(self.folder)


@pytest.fixture
def online(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    hub = FakeHub(pipeline)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.download)
    return hub
