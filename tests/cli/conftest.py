from pathlib import Path

import pytest
from tests.hub.tiny import tiny

from diffsight.hub import save


@pytest.fixture(scope="session")
def depth_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model; tests must not change it."""
    return save(tiny(), tmp_path_factory.mktemp("models") / "depth")
