"""Labelled rooms on disk, in the layout of a user's own data."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

KEYS = {
    "segmentation": "semantic",
    "depth": "depth_m",
    "scalar": "reshading",
    "normals": "normals",
}


def write_labelled_rooms(
    folder: Path, *, kind: str, count: int = 3, size: int = 32
) -> tuple[Path, Path]:
    """Write images and labels with the same file names; return the two folders."""
    from diffsight.datasets.depth import write_depth_png
    from diffsight.rooms import Rooms

    rooms = Rooms("val", count, size, (KEYS[kind],))
    images, labels = folder / "images", folder / "labels"
    for path in (images, labels):
        path.mkdir(parents=True)
    for i in range(count):
        sample = rooms[i]
        label, valid = sample.labels[KEYS[kind]], sample.valid[KEYS[kind]]
        Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(images / f"r{i}.png")
        if kind == "segmentation":
            Image.fromarray(label.numpy().astype(np.uint8)).save(labels / f"r{i}.png")
        elif kind == "depth":
            write_depth_png(labels / f"r{i}.png", label[0], valid)
        else:
            values = torch.where(valid, label, torch.nan).movedim(0, -1).numpy()
            np.save(labels / f"r{i}.npy", values[..., 0] if kind == "scalar" else values)
    return images, labels
