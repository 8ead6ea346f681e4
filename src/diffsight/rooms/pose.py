"""``PeopleRooms``: rooms with people, and their joints."""

from typing import Literal

import numpy as np
import torch

from diffsight.datasets.base import Sample
from diffsight.errors import InputError
from diffsight.rooms.dataset import AbstractRooms, camera_of
from diffsight.rooms.labels import Geometry
from diffsight.rooms.people import Person, find_people
from diffsight.rooms.referring import ELSEWHERE
from diffsight.rooms.render import add_noise, render_clean
from diffsight.rooms.scene import sample_scene
from diffsight.rooms.world import Scene
from diffsight.types import People

LEAST_PX = 0.01  # of the image that a person covers
LEAST_JOINTS = 6  # inside the image


class PeopleRooms(AbstractRooms):
    """Rooms in which at least one person is seen well: 1 % of the image, six joints inside it.

    Label ``keypoints`` is ``m 17 3`` in the order of COCO: x and y in pixels, and 0 (outside of the
    image), 1 (covered) or 2 (seen). Less of a person than that is treated as a crowd.

    Args:
        split: ``train``, ``val`` or ``test``: three worlds without a scene in common.
        count: number of scenes.
        size: one number, or (height, width) in pixels.
        seed: another seed gives other scenes.
        each: what a sample is: an ``image`` with all people, to evaluate on, or its largest
            ``person``, to train on (with ``PersonCrop``).
    """

    world = "people-rooms"

    def __init__(
        self,
        split: str = "train",
        count: int = 1000,
        size: int | tuple[int, int] = 256,
        seed: int = 0,
        each: Literal["image", "person"] = "image",
    ) -> None:
        super().__init__(split, count, size, seed)
        self.each = each

    def __getitem__(self, index: int) -> Sample:
        """Return the scene with this index."""
        self.require(index)
        scene, clean, found = self._with_people(index)
        if self.each == "person":
            found = [max(filter(self._is_seen, found), key=lambda one: one.visible_px)]
        people = People(
            edges=torch.tensor([one.box for one in found], dtype=torch.float32),
            scores=torch.ones(len(found)),
            keypoints=torch.from_numpy(np.stack([one.keypoints for one in found])).float(),
            areas=torch.tensor([float(one.visible_px) for one in found]),
            is_crowd=torch.tensor([not self._is_seen(one) for one in found]),
        )
        return Sample(
            id=scene.id,
            image=torch.from_numpy(add_noise(scene, clean)),
            labels={"keypoints": people.keypoints},
            valid={"keypoints": torch.ones(self.size, dtype=torch.bool)},
            camera=camera_of(scene, *self.size),
            people=people,
        )

    def _with_people(self, index: int) -> tuple[Scene, np.ndarray, list[Person]]:
        for attempt in range(1000):
            scene = sample_scene(self.split, self.seed, index + attempt * ELSEWHERE)
            if all(thing.joints is None for thing in scene.things):
                continue
            clean = render_clean(scene, *self.size)
            found = list(find_people(scene, Geometry(scene, *self.size, clean).instance))
            if any(map(self._is_seen, found)):
                return scene, clean, found
        raise InputError(f"scene {index} of {self.name}: nobody is seen: choose another seed")

    def _is_seen(self, person: Person) -> bool:
        pixels = self.size[0] * self.size[1]
        joints = int((person.keypoints[:, 2] > 0).sum())
        return person.visible_px >= LEAST_PX * pixels and joints >= LEAST_JOINTS
