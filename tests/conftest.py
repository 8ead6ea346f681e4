"""Shapes and types of every public function are checked while the tests run."""

import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does
if "PYTEST_XDIST_WORKER" in os.environ:  # one process per core
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401 - the hook names it

install_import_hook("diffsight", "tests.typecheck.check")


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Stable Diffusion folder; tests must not change it."""
    # not at the top: the hook comes before everything that it checks
    from tests.support_pipeline import write_pipeline

    return write_pipeline(tmp_path_factory.mktemp("assets") / "tiny")


@pytest.fixture
def embedded(pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it in place of the model that the package ships."""
    folder = tmp_path / "assets" / "tiny"
    shutil.copytree(pipeline_folder, folder)
    monkeypatch.setattr("diffsight.assets.FOLDER", folder.parent)
    return folder
