"""Saved models as a folder and as a single file, and copies that a test may damage."""

import shutil
from pathlib import Path

import pytest
from tests.support_models import tiny

from diffsight.hub import save


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a saved VPD depth model; tests must not change it."""
    return save(tiny(), tmp_path_factory.mktemp("models") / "depth")


@pytest.fixture(scope="session")
def saved_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same model saved as a single file; tests must not change it."""
    return save(tiny(), tmp_path_factory.mktemp("models") / "depth.safetensors")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """Return a copy of the folder, which a test may damage."""
    return shutil.copytree(saved, tmp_path / "copy")


@pytest.fixture
def file(saved_file: Path, tmp_path: Path) -> Path:
    """Return a copy of the file, which a test may damage."""
    return shutil.copy(saved_file, tmp_path / "copy.safetensors")


@pytest.fixture(params=["folder", "file"])
def artifact(request: pytest.FixtureRequest) -> Path:
    """Return the copied folder or file; a test runs once with each."""
    return request.getfixturevalue(request.param)
