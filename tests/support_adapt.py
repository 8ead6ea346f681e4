"""A folder of a few labelled pictures, and adaptations to it with a model of random weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffsight.adaptation.adapt import adapt
from diffsight.model import DenseModel

COUNT = 6


def pictures(
    folder: Path,
    kind: str = "scalar",
    sizes: Sequence[tuple[int, int]] = ((64, 64), (48, 80)),
    seed: int = 0,
    count: int = COUNT,
) -> Path:
    """Write bright squares on a dark ground; the label says where they are."""
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
    """Adapt to the pictures in a folder."""
    return adapt(folder / "images", folder / "labels", kind=kind, backbone=backbone, **options)


def first_image() -> torch.Tensor:
    """Return noise of 64 x 64 pixels in [0, 1]."""
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def assert_same_weights(one: DenseModel, other: DenseModel) -> None:
    """Compare all tensors bit for bit."""
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
