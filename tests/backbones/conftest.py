"""A Stable Diffusion model with a few thousand parameters."""

import pytest
from tests.support import SMALL

from diffsight.backbones import StableDiffusion


@pytest.fixture
def small() -> StableDiffusion:
    return StableDiffusion(SMALL)
