"""Make samples in memory, without files."""

import torch

from diffsight.datasets.base import Sample
from diffsight.types import Camera

CAMERA = Camera(fx_px=50.0, fy_px=60.0, cx_px=10.0, cy_px=8.0)


def seeded(seed: int) -> torch.Generator:
    """Return a random number generator with this seed."""
    return torch.Generator().manual_seed(seed)


def make_sample(height: int = 24, width: int = 32, seed: int = 0) -> Sample:
    """Return a random image whose labels are copies of its channels."""
    image = torch.randint(256, (3, height, width), generator=seeded(seed), dtype=torch.uint8)
    normals = torch.randn(3, height, width, generator=seeded(seed + 1))
    labels = {
        "depth_m": image[:1].float() / 25.5,
        "semantic": image[1].long(),
        "normals": normals,
    }
    valid = {name: image[2] > 25 for name in labels}
    return Sample("a", image, labels, valid, "kitchen", CAMERA)
