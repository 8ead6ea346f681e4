"""A pretrained model with random weights, which the tests of the benchmark share."""

from pathlib import Path

import pytest

from diffsight.backbones import BackboneSource


@pytest.fixture(scope="module")
def pretrained(pipeline_folder: Path) -> BackboneSource:
    """A small pretrained model with random weights."""
    return BackboneSource(pipeline_folder)
