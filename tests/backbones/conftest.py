"""A Stable Diffusion of a few thousand parameters with the topology of the real one."""

import pytest

from diffsight.backbones import StableDiffusion

SMALL = {
    "unet": {
        "block_out_channels": [16, 32, 48, 48],
        "norm_num_groups": 8,
        "attention_head_dim": 2,
        "cross_attention_dim": 24,
    },
    "vae": {"block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4},
}


@pytest.fixture
def small() -> StableDiffusion:
    return StableDiffusion(SMALL)
