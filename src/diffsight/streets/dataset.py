"""``Streets``, the data set of procedural streets."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.rig_picture import draw_rig
from diffsight.errors import InputError
from diffsight.ops.machine import require_bytes
from diffsight.rig import Rig, check_cells
from diffsight.streets.ground import CLASSES
from diffsight.streets.scene import SPLITS, sample_scene, stream
from diffsight.streets.sensors import CAMERAS, RAYS, camera_poses, photograph, scan

MIN_SIZE = 8
RAY_BYTES, CELL_BYTES = 100, 100  # memory that a ray and a cell need, at least


class Streets(AbstractDataset):
    """Rendered streets around a vehicle, with maps of the ground. See docs/streets.md.

    The label ``map`` is ``6 cells cells`` of float32: one map per class, with x (forward) along the
    rows and y (left) along the columns. It is 1 in the cells of the class and 0 elsewhere.

    Args:
        split: ``train``, ``val`` or ``test``; the splits have no scene in common.
        count: number of scenes.
        image_hw: height and width in pixels of the image of each camera.
        lidar: whether samples have LiDAR points besides the images.
        cells: cells of the map along each axis.
        cell_m: length of a cell in metres.
        seed: seed of the data set; every seed has its own scenes.

    Raises:
        InputError: for an unknown split, a number that is too small, or images and a map that are
            too large for the memory.
    """

    class_names: Mapping[str, tuple[str, ...]] = {"map": CLASSES}

    def __init__(
        self,
        split: str = "train",
        count: int = 1000,
        image_hw: Sequence[int] = (64, 176),
        lidar: bool = True,
        cells: int = 50,
        cell_m: float = 0.5,
        seed: int = 0,
    ) -> None:
        if split not in SPLITS:
            raise InputError(f"unknown split {split!r} of streets: choose from {', '.join(SPLITS)}")
        if count < 1:
            raise InputError(f"count {count} of streets: give at least 1")
        if len(image_hw) != 2 or min(image_hw) < MIN_SIZE:
            raise InputError(
                f"image_hw {tuple(image_hw)} of streets: give (height, width), each at least "
                f"{MIN_SIZE}"
            )
        check_cells(cells, cell_m)
        height, width = image_hw
        needed = height * width * RAYS**2 * RAY_BYTES + cells**2 * CELL_BYTES
        subject = f"images of {width} x {height} px and {cells} x {cells} cells of streets"
        require_bytes(needed, subject, "choose a smaller size")
        self.name = f"streets-{split}"
        self.split = split
        self.count = count
        self.image_hw = (height, width)
        self.lidar = lidar
        self.cells = cells
        self.cell_m = cell_m
        self.map_cells = (cells, cell_m)
        self.seed = seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """Return the sample of the scene with this index."""
        if not 0 <= index < self.count:
            raise IndexError(f"{self.name} has scenes 0 to {self.count - 1}, not {index}")
        grid = {"cells": self.cells, "cell_m": self.cell_m}
        scene = sample_scene(self.split, self.seed, index, **grid)
        poses = camera_poses(scene, self.image_hw)
        noise = stream(f"{scene.id}/noise/{self.image_hw}")
        images = torch.from_numpy(np.stack([photograph(scene, pose, noise) for pose in poses]))
        rig = Rig(
            images=images[None],
            intrinsics=_batch([pose.intrinsics for pose in poses]),
            camera_to_vehicle=_batch([pose.to_vehicle for pose in poses]),
            image_change=torch.eye(4).repeat(1, len(CAMERAS), 1, 1),
            points=(torch.from_numpy(scan(scene)),) if self.lidar else None,
        )
        return Sample(
            id=scene.id,
            image=draw_rig(rig),
            labels={"map": scene.ground.draw(torch.eye(4))},
            valid={"map": torch.ones(self.cells, self.cells, dtype=torch.bool)},
            rig=rig,
            map_source=scene.ground,
        )


def _batch(matrices: list[np.ndarray]) -> Tensor:
    """Return the matrices of all cameras as a batch of one, ``1 v 4 4``."""
    return torch.from_numpy(np.stack(matrices)).float()[None]
