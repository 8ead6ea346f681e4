"""Folders with a few labelled images, and ``adapt`` on them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffsight.adaptation.adapt import adapt
from diffsight.model import DenseModel

COUNT = 6


def write_pictures(
    folder: Path,
    kind: str = "scalar",
    sizes: Sequence[tuple[int, int]] = ((64, 64), (48, 80)),
    seed: int = 0,
    count: int = COUNT,
) -> Path:
    """Write images of a bright square on a dark ground, with labels that show the square.

    Args:
        folder: folder that gets the subfolders ``images`` and ``labels``.
        kind: kind of label, as in ``adapt``.
        sizes: heights and widths of the images, used in turn.
        seed: seed of positions and pixels.
        count: number of images.

    Returns:
        The folder.
    """
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for i in range(count):
        height, width = sizes[i % len(sizes)]
        image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        square = np.zeros((height, width), bool)
        square[top : top + height // 2, left : left + width // 2] = True
        image[square] = rng.integers(200, 250)
        if kind == "segmentation":
            label = np.where(square, 7, 2).astype(np.uint8)
            label[:3] = 255
        elif kind == "normals":
            vectors = rng.normal(size=(height, width, 3)) + np.where(square[..., None], 3, -3)
            label = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
        else:
            label = np.where(square, 2000 + i, rng.integers(1, 200, (height, width)))
            label = label.astype(np.uint16)
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
        if label.dtype.kind == "f":
            np.save(folder / "labels" / f"{i}.npy", label)
        else:
            Image.fromarray(label).save(folder / "labels" / f"{i}.png")
    return folder


def run(folder: Path, backbone: Any, kind: str = "scalar", **options: Any) -> DenseModel:
    """Train a model with ``adapt`` on a folder of ``write_pictures``."""
    return adapt(folder / "images", folder / "labels", kind=kind, backbone=backbone, **options)


def first_image() -> torch.Tensor:
    """Return an image of 64 x 64 random pixels in [0, 1]."""
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def assert_same_weights(one: DenseModel, other: DenseModel) -> None:
    """Compare all tensors bit for bit."""
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
