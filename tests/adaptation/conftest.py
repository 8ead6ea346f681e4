"""A backbone with random weights, loaded once for all tests of this folder."""

from pathlib import Path

import pytest

from diffsight.backbones import BackboneSource


@pytest.fixture(scope="package")
def backbone(pipeline_folder: Path) -> BackboneSource:
    """Return the random Stable Diffusion folder, with CLIP, as a backbone source."""
    return BackboneSource(pipeline_folder)
