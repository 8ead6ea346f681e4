"""``Rooms``: the procedural world as a data set."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.rooms.draw import SPLITS
from diffsight.datasets.rooms.labels import Geometry, check_names
from diffsight.datasets.rooms.render import add_noise, render_clean
from diffsight.datasets.rooms.scene import sample_scene
from diffsight.datasets.rooms.world import CLASSES, Scene
from diffsight.types import Camera, InputError

MIN_SIZE = 8


def camera_of(scene: Scene, height: int, width: int) -> Camera:
    """Intrinsics for an image of this size."""
    focal = scene.view.focal_px(height, width)
    return Camera(focal, focal, (width - 1) / 2, (height - 1) / 2)


def check_size(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width from one number or a pair.

    Raises:
        InputError: if it is not one or two whole numbers of at least 8.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < MIN_SIZE:
        raise InputError(
            f"size {size} of rooms: give one number or (height, width), each at least {MIN_SIZE}"
        )
    return int(pair[0]), int(pair[1])


class Rooms(AbstractDataset):
    """Rendered rooms with exact labels; see docs/rooms.md for the table of labels.

    Args:
        split: ``train``, ``val`` or ``test``: three worlds without a scene in common.
        count: number of scenes.
        size: one number, or (height, width) in pixels.
        labels: names out of ``LABELS``; others are not computed.
        seed: another seed gives other scenes.
    """

    name = "rooms"
    class_names: Mapping[str, tuple[str, ...]] = {"semantic": CLASSES}

    def __init__(
        self,
        split: Literal["train", "val", "test"] = "train",
        count: int = 1000,
        size: int | tuple[int, int] = 128,
        labels: Sequence[str] = ("depth_m",),
        seed: int = 0,
    ) -> None:
        if split not in SPLITS:
            raise InputError(f"unknown split {split!r} of rooms: choose from {', '.join(SPLITS)}")
        if count < 1:
            raise InputError(f"count {count} of rooms: ask for at least one scene")
        self.split = split
        self.count = count
        self.size = check_size(size)
        self.labels = check_names(labels)
        self.seed = seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """The scene with this index; its prompt is the type of the room."""
        if not 0 <= index < self.count:
            raise IndexError(f"rooms has scenes 0 to {self.count - 1}, not {index}")
        scene = sample_scene(self.split, self.seed, index)
        clean = render_clean(scene, *self.size)
        geometry = Geometry(scene, *self.size, clean)
        maps = {name: geometry.label(name) for name in self.labels}
        return Sample(
            id=scene.id,
            image=torch.from_numpy(add_noise(scene, clean)),
            labels={
                name: torch.from_numpy(np.ascontiguousarray(m.value)) for name, m in maps.items()
            },
            valid={name: torch.from_numpy(m.valid.copy()) for name, m in maps.items()},
            prompt=scene.room_type,
            camera=camera_of(scene, *self.size),
        )
