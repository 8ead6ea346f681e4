"""Settings of all tests. Shapes and types of every call to diffsight are checked."""

import os
import shutil
import signal
from pathlib import Path

import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does
if "PYTEST_XDIST_WORKER" in os.environ:  # one process per core
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # by a shell that runs them in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jaxtyping

import tests.typecheck

jaxtyping.jaxtyped = tests.typecheck.jaxtyped  # the hook applies it to every function and class
jaxtyping.install_import_hook("diffsight", "tests.typecheck.check")


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small random Stable Diffusion; tests must not change it."""
    # imported here, because the import hook must be installed before diffsight is imported
    from tests.support_pipeline import write_pipeline

    return write_pipeline(tmp_path_factory.mktemp("assets") / "tiny")


@pytest.fixture
def embedded(pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace the packaged model by a copy of ``pipeline_folder``; return the copy."""
    folder = tmp_path / "assets" / "tiny"
    shutil.copytree(pipeline_folder, folder)
    monkeypatch.setattr("diffsight.assets.FOLDER", folder.parent)
    return folder
