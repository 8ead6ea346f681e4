"""Random images on disk, ``diffsight predict`` on them, and a custom method."""

from pathlib import Path

import numpy as np
from PIL import Image

from diffsight import cli
from diffsight.methods import FeatureHead

RNG = np.random.default_rng(0)


def photo(path: Path, height: int = 32, width: int = 40, mode: str = "RGB") -> Path:
    """Write an image of random pixels, and create its folder; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def predict(model: Path, *arguments: str | Path) -> int:
    """Run ``diffsight predict`` on the CPU; return its exit status."""
    rest = ["--model", str(model), "--device", "cpu"]
    return cli.main(["predict", *map(str, arguments), *rest])


class OwnHead(FeatureHead):
    """A custom method, which is not part of diffsight."""
