"""Small images and depth maps on disk for the tests of data sets."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (24, 20)) -> Path:
    """Noise of ``size`` (width, height) that depends on the seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_depth(path: Path, count: int = 2000, size: tuple[int, int] = (24, 20)) -> Path:
    """The same count everywhere but in the first row, which is 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = np.full((size[1], size[0]), count, np.uint16)
    counts[0] = 0
    Image.fromarray(counts).save(path)
    return path
