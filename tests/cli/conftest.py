from pathlib import Path

import pytest
from tests.support_models import tiny

from diffsight.hub import save


@pytest.fixture(scope="session")
def depth_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a saved depth model, which tests must not change."""
    return save(tiny(), tmp_path_factory.mktemp("models") / "depth")
