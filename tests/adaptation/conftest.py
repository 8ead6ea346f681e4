"""A backbone of random weights, loaded once."""

from pathlib import Path

import pytest

from diffsight.backbones import BackboneSource


@pytest.fixture(scope="package")
def backbone(pipeline_folder: Path) -> BackboneSource:
    """Stable Diffusion with CLIP, in a folder."""
    return BackboneSource(pipeline_folder)
