"""``Rooms``, the data set of procedural rooms, and ``render_scene``, which renders one of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.errors import InputError
from diffsight.ops.machine import require_bytes
from diffsight.rooms.draw import SPLITS
from diffsight.rooms.labels import LABELS, Geometry, check_names
from diffsight.rooms.language import caption, expressions, look_around
from diffsight.rooms.people import Person, find_people
from diffsight.rooms.render import add_noise, render_clean
from diffsight.rooms.scene import sample_scene
from diffsight.rooms.world import CLASSES, Scene
from diffsight.types import Camera

MIN_SIZE = 8
PIXEL_BYTES = 800  # memory that rendering needs per pixel, at least


def camera_of(scene: Scene, height: int, width: int) -> Camera:
    """Return the camera intrinsics of a scene, in pixels, for an image of this size."""
    focal = scene.view.focal_px(height, width)
    return Camera(focal, focal, (width - 1) / 2, (height - 1) / 2)


def check_size(size: int | Sequence[int], *, at_once: int = 1) -> tuple[int, int]:
    """Return height and width in pixels for a size that is one number or a pair of numbers.

    Args:
        size: side in pixels, or height and width.
        at_once: number of images that are rendered at the same time.

    Raises:
        InputError: if the size is not one or two whole numbers of at least 8, or if the machine
            has too little memory to render such images.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < MIN_SIZE:
        raise InputError(
            f"rooms of size {size}: give one number or (height, width), each at least {MIN_SIZE}"
        )
    height, width = int(pair[0]), int(pair[1])
    subject = f"a room of {width} x {height} px" + (f", {at_once} at once" if at_once > 1 else "")
    repair = "choose a smaller size" + (", or fewer workers" if at_once > 1 else "")
    require_bytes(at_once * height * width * PIXEL_BYTES, subject, repair)
    return height, width


def check_split(split: str) -> str:
    """Return ``split`` unchanged if the rooms have a split of this name.

    Raises:
        InputError: if the rooms have no split of this name.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r} of rooms: choose from {', '.join(SPLITS)}")
    return split


@dataclass(frozen=True)
class Expression:
    """A referring expression and the object that it describes.

    Attributes:
        text: English, lower case.
        instance: value of the object in the instance map.
        mask: True at the pixels of the object, ``h w``.
    """

    text: str
    instance: int
    mask: Bool[np.ndarray, "h w"]


@dataclass(frozen=True)
class Rendering:
    """A rendered scene with all its annotations.

    Attributes:
        id: name of the scene.
        image: RGB, ``3 h w`` of uint8.
        labels: label maps by name: ``c h w`` of float32, or ``h w`` of int64.
        valid: masks of the valid pixels by label name, ``h w`` of bool.
        people: keypoints and boxes of the visible people.
        caption: one sentence about the visible objects, lower case.
        expressions: referring expressions; each describes exactly one of the visible objects.
        camera: intrinsics in pixels.
        room_type: one of ``ROOM_TYPES``.
        kinds: class names of the instances, in the order of their values in the instance map.
    """

    id: str
    image: UInt8[np.ndarray, "3 h w"]
    labels: Mapping[str, np.ndarray]
    valid: Mapping[str, Bool[np.ndarray, "h w"]]
    people: tuple[Person, ...]
    caption: str
    expressions: tuple[Expression, ...]
    camera: Camera
    room_type: str
    kinds: tuple[str, ...]


def render_scene(
    index: int,
    *,
    split: str = "train",
    size: int | tuple[int, int] = 128,
    labels: Sequence[str] = LABELS,
    seed: int = 0,
) -> Rendering:
    """Return one rendered scene with the chosen labels, people, caption and expressions.

    Args:
        index: number of the scene, from 0.
        split: ``train``, ``val`` or ``test``; the splits have no scene in common.
        size: side in pixels, or (height, width).
        labels: names from ``LABELS``; only these are computed.
        seed: seed of the data set; every seed has its own scenes.

    Raises:
        InputError: for an unknown split or label, a size below 8, or a negative index.
    """
    if index < 0:
        raise InputError(f"room {index}: give an index of at least 0")
    height, width = check_size(size)
    names = check_names(labels)
    scene = sample_scene(check_split(split), seed, index)
    clean = render_clean(scene, height, width)
    geometry = Geometry(scene, height, width, clean)
    maps = {name: geometry.label(name) for name in names}
    in_view = look_around(scene, height, width)
    masks = ((text, i, geometry.instance == i) for text, i in expressions(scene, in_view))
    return Rendering(
        id=scene.id,
        image=add_noise(scene, clean),
        labels={name: label.value for name, label in maps.items()},
        valid={name: label.valid for name, label in maps.items()},
        people=find_people(scene, geometry.instance),
        caption=caption(scene, in_view),
        # in a very small image an object can lie between the pixel centres
        expressions=tuple(Expression(*entry) for entry in masks if entry[2].any()),
        camera=camera_of(scene, height, width),
        room_type=scene.room_type,
        kinds=tuple(thing.kind for thing in scene.things),
    )


class AbstractRooms(AbstractDataset):
    """Base class of the data sets of rooms. A scene is rendered each time its sample is read.

    Args:
        split: ``train``, ``val`` or ``test``; the splits have no scene in common.
        count: number of scenes.
        size: side in pixels, or (height, width).
        seed: seed of the data set; every seed has its own scenes.

    Attributes:
        world: kind of the scenes; the name of the data set is ``<world>-<split>``.

    Raises:
        InputError: for an unknown split, a count below 1, or a size below 8 or too large for the
            memory.
    """

    world: str

    def __init__(self, split: str, count: int, size: int | tuple[int, int], seed: int) -> None:
        if count < 1:
            raise InputError(f"a data set of {count} rooms: give a count of at least 1")
        self.split = check_split(split)
        self.name = f"{self.world}-{split}"
        self.count = count
        self.size = check_size(size)
        self.seed = seed

    def __len__(self) -> int:
        return self.count

    def require(self, index: int) -> None:
        """Raise IndexError if no scene has this index, which ends a ``for`` loop over the data."""
        if not 0 <= index < self.count:
            raise IndexError(f"{self.name} has scenes 0 to {self.count - 1}, not {index}")


class Rooms(AbstractRooms):
    """Rendered rooms with exact labels. docs/rooms.md defines the labels.

    Args:
        split: ``train``, ``val`` or ``test``; the splits have no scene in common.
        count: number of scenes.
        size: side in pixels, or (height, width).
        labels: names from ``LABELS``; only these are computed.
        seed: seed of the data set; every seed has its own scenes.
        prompt: text that is the prompt of a sample: ``room_type``, the type of the room, or
            ``caption``, a caption of the image.

    Raises:
        InputError: for an unknown split or label, a count below 1, or a size below 8 or too large
            for the memory.
    """

    world = "rooms"
    class_names: Mapping[str, tuple[str, ...]] = {"semantic": CLASSES}

    def __init__(
        self,
        split: str = "train",
        count: int = 1000,
        size: int | tuple[int, int] = 128,
        labels: Sequence[str] = ("depth_m",),
        seed: int = 0,
        prompt: Literal["room_type", "caption"] = "room_type",
    ) -> None:
        super().__init__(split, count, size, seed)
        self.labels = check_names(labels)
        self.prompt = prompt
        self.prompt_source = "caption" if prompt == "caption" else "oracle-scene"

    def __getitem__(self, index: int) -> Sample:
        """Return the sample of the scene with this index."""
        self.require(index)
        scene = sample_scene(self.split, self.seed, index)
        clean = render_clean(scene, *self.size)
        geometry = Geometry(scene, *self.size, clean)
        maps = {name: geometry.label(name) for name in self.labels}
        prompt = scene.room_type
        if self.prompt == "caption":
            prompt = caption(scene, look_around(scene, *self.size))
        return Sample(
            id=scene.id,
            image=torch.from_numpy(add_noise(scene, clean)),
            labels={
                name: torch.from_numpy(np.ascontiguousarray(m.value)) for name, m in maps.items()
            },
            valid={name: torch.from_numpy(m.valid.copy()) for name, m in maps.items()},
            prompt=prompt,
            camera=camera_of(scene, *self.size),
        )
