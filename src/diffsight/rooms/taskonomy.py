"""``TaskonomyRooms``, a data set of rooms with the labels of the ten tasks of Taskonomy."""

from dataclasses import replace

import torch

from diffsight.datasets.base import Sample
from diffsight.rooms.dataset import Rooms

# Taskonomy limits curvature labels to radii of at least 3 cm
MAX_CURVATURE_PER_M = 1 / 0.03
TASKONOMY_LABELS = (
    "euclidean_depth_m",
    "depth_m",
    "edge_texture",
    "edge_occlusion",
    "keypoints2d",
    "keypoints3d",
    "reshading",
    "principal_curvature_per_m",
    "normals",
    "semantic",
)


class TaskonomyRooms(Rooms):
    """Rooms with the labels of Taskonomy's ten tasks, ``TASKONOMY_LABELS``.

    A room is rendered once and then kept in memory. Labels are 0 at invalid pixels.

    Args:
        split: ``train``, ``val`` or ``test``; the splits have no scene in common.
        count: number of scenes.
        size: side in pixels, or (height, width).
        seed: seed of the data set; every seed has its own scenes.

    Raises:
        InputError: for an unknown split, a count below 1, or a size below 8 or too large for the
            memory.
    """

    def __init__(
        self,
        split: str = "train",
        count: int = 1000,
        size: int | tuple[int, int] = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(split, count, size, TASKONOMY_LABELS, seed)
        self._samples: dict[int, Sample] = {}

    def __getitem__(self, index: int) -> Sample:
        """Return the sample of the scene with this index."""
        self.require(index)
        if index not in self._samples:
            sample = super().__getitem__(index)
            name = "principal_curvature_per_m"
            labels = dict(sample.labels)
            labels[name] = labels[name].clamp(-MAX_CURVATURE_PER_M, MAX_CURVATURE_PER_M)
            labels = {k: torch.where(sample.valid[k], v, 0) for k, v in labels.items()}
            self._samples[index] = replace(sample, id=f"{self.split}/{index}", labels=labels)
        return self._samples[index]
