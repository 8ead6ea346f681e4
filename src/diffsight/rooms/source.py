"""Rooms for the few-shot benchmark: Taskonomy's ten tasks and classes, with exact labels."""

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch

from diffsight.datasets.base import Sample
from diffsight.datasets.source import AbstractSource, Labelled, Scoring, SourceTask
from diffsight.errors import InputError
from diffsight.rooms.dataset import Rooms
from diffsight.rooms.world import CLASSES

# Taskonomy's curvature labels end at a radius of 3 cm
MAX_CURVATURE_PER_M = 1 / 0.03

_SCORING: Mapping[str, Scoring] = {"normals": "angles", "segmentation": "classes"}

# name of the task: (label of Rooms, kind, classes of the paper, unit)
_LABELS = {
    "depth_euclidean": ("euclidean_depth_m", "depth", 40, "m"),
    "depth_zbuffer": ("depth_m", "depth", 40, "m"),
    "edge_texture": ("edge_texture", "scalar", 20, ""),
    "edge_occlusion": ("edge_occlusion", "scalar", 20, ""),
    "keypoints2d": ("keypoints2d", "scalar", 20, ""),
    "keypoints3d": ("keypoints3d", "scalar", 20, ""),
    "reshading": ("reshading", "scalar", 20, ""),
    "principal_curvature": ("principal_curvature_per_m", "vector", 40, "1/m"),
    "normal": ("normals", "normals", 40, ""),
    "segment_semantic": ("semantic", "segmentation", 0, ""),
}


class RoomsSource(AbstractSource):
    """Supports come from the split ``train``, scored are rooms of ``test``.

    A room is rendered once with all labels and stays in memory.

    Args:
        size: of the pictures in pixels.
        count: rooms that are scored.
        pool: rooms that supports are drawn from.

    Raises:
        InputError: if there is no room to score or to learn from.
    """

    tasks: Mapping[str, SourceTask] = MappingProxyType(
        {
            name: SourceTask(
                name,
                kind,
                _SCORING.get(kind, "values"),
                bins,
                unit,
                CLASSES if kind == "segmentation" else (),
            )
            for name, (_, kind, bins, unit) in _LABELS.items()
        }
    )

    def __init__(self, *, size: int = 64, count: int = 100, pool: int = 2000) -> None:
        if count < 1 or pool < 1:
            raise InputError(f"{count} rooms to score and {pool} to learn from: at least one each")
        self.name = f"rooms, {size} px, {count} of test"
        self.skipped = {}
        labels = [label for label, *_ in _LABELS.values()]
        self._worlds = {
            split: Rooms(split, number, size, labels)
            for split, number in (("train", pool), ("test", count))
        }
        self._sample = functools.cache(self._rendered)

    def pool(self, task: str) -> Sequence[str]:
        """The rooms of ``train``."""
        return [f"train/{i}" for i in range(len(self._worlds["train"]))]

    def queries(self, task: str) -> Sequence[str]:
        """The rooms of ``test``."""
        return [f"test/{i}" for i in range(len(self._worlds["test"]))]

    def read(self, task: str, id: str) -> Labelled:
        """One room."""
        sample, label = self._sample(id), _LABELS[task][0]
        value, valid = sample.labels[label], sample.valid[label]
        if value.ndim == 2:
            value = value[None]
        if task == "principal_curvature":
            value = value.clamp(-MAX_CURVATURE_PER_M, MAX_CURVATURE_PER_M)
        return Labelled(id, sample.image, torch.where(valid, value, 0).float(), valid)

    def _rendered(self, id: str) -> Sample:
        split, _, index = id.partition("/")
        return self._worlds[split][int(index)]
