"""Write small NYU data sets with depth and surface normals."""

import math
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support_images import write_image

TRAIN, TEST = "sync/kitchen_0028b", "official_splits/test/bathroom"
SIZE = (640, 480)


def write_counts(path: Path) -> None:
    """Write a depth map with four horizontal stripes: 0, 0.1 m, 5 m and 10.01 m."""
    counts = np.zeros((480, 640), np.uint16)
    counts[100:] = 100
    counts[200:] = 5000
    counts[300:] = 10_010
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(counts).save(path)


def write_nyu_pair(root: Path, folder: str, number: int) -> None:
    """Write an image and its depth map, both of 640 x 480 pixels."""
    write_image(root / folder / f"rgb_{number:05}.jpg", seed=number, size=SIZE)
    write_counts(root / folder / f"sync_depth_{number:05}.png")


def make_normals() -> np.ndarray:
    """Return normals: a first row without direction, a wall at 45 degrees, and the ground below."""
    normals = np.zeros((480, 640, 3), np.float32)
    normals[:240] = (math.sqrt(0.5), 0, -math.sqrt(0.5))
    normals[240:] = (0, -1, 0)
    normals[0] = 0
    return normals


def write_normals(stem: Path) -> None:
    """Write the normals of an image: NPY in the folder ``sync``, else PNG."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    if "sync" in stem.parts:
        np.save(stem.with_suffix(".npy"), make_normals())
    else:
        encoded = np.round((make_normals() + 1) * 127.5).astype(np.uint8)
        Image.fromarray(encoded).save(stem.with_suffix(".png"))
