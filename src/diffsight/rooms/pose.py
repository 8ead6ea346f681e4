"""``PeopleRooms``, a data set of rooms with people and their keypoints."""

from typing import Literal

import numpy as np
import torch

from diffsight.datasets.base import Sample
from diffsight.errors import InputError
from diffsight.rooms.dataset import AbstractRooms, camera_of
from diffsight.rooms.labels import Geometry
from diffsight.rooms.people import Person, find_people
from diffsight.rooms.referring import REPLACEMENT_OFFSET
from diffsight.rooms.render import add_noise, render_clean
from diffsight.rooms.scene import sample_scene
from diffsight.rooms.world import Scene
from diffsight.types import People

MIN_AREA_FRACTION = 0.01  # least fraction of the pixels of the image that show the person
MIN_JOINTS = 6  # least number of keypoints inside the image


class PeopleRooms(AbstractRooms):
    """Rooms with a person who covers at least 1 % of the image and has six keypoints inside it.

    The label ``keypoints`` is ``m 17 3`` in the order of COCO: x and y in pixels, and the
    visibility: 0 outside the image, 1 covered, 2 visible. A person who covers less, or has fewer
    keypoints inside, is marked as a crowd, which scores ignore.

    Args:
        split: ``train``, ``val`` or ``test``; the splits have no scene in common.
        count: number of scenes.
        size: side in pixels, or (height, width).
        seed: seed of the data set; every seed has its own scenes.
        each: ``image`` for samples with all people of an image, for evaluation; ``person`` for
            samples with the largest person alone, for training (with ``PersonCrop``).

    Raises:
        InputError: for an unknown split, a count below 1, or a size below 8 or too large for the
            memory.
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
        """Return the sample of the scene with this index.

        Raises:
            InputError: if none of 1000 random scenes shows a person well enough.
        """
        self.require(index)
        scene, clean, visible = self._sample_with_people(index)
        if self.each == "person":
            visible = [
                max(filter(self._is_clearly_visible, visible), key=lambda one: one.visible_px)
            ]
        people = People(
            edges=torch.tensor([one.box for one in visible], dtype=torch.float32),
            scores=torch.ones(len(visible)),
            keypoints=torch.from_numpy(np.stack([one.keypoints for one in visible])).float(),
            areas=torch.tensor([float(one.visible_px) for one in visible]),
            is_crowd=torch.tensor([not self._is_clearly_visible(one) for one in visible]),
        )
        return Sample(
            id=scene.id,
            image=torch.from_numpy(add_noise(scene, clean)),
            labels={"keypoints": people.keypoints},
            valid={"keypoints": torch.ones(self.size, dtype=torch.bool)},
            camera=camera_of(scene, *self.size),
            people=people,
        )

    def _sample_with_people(self, index: int) -> tuple[Scene, np.ndarray, list[Person]]:
        """Return a scene, its image without noise, and its people, one of them clearly visible."""
        for attempt in range(1000):
            scene = sample_scene(self.split, self.seed, index + attempt * REPLACEMENT_OFFSET)
            if all(thing.joints is None for thing in scene.things):
                continue
            clean = render_clean(scene, *self.size)
            visible = list(find_people(scene, Geometry(scene, *self.size, clean).instance))
            if any(map(self._is_clearly_visible, visible)):
                return scene, clean, visible
        raise InputError(f"{self.name}: scene {index} shows no person: choose another seed")

    def _is_clearly_visible(self, person: Person) -> bool:
        pixels = self.size[0] * self.size[1]
        joints = int((person.keypoints[:, 2] > 0).sum())
        return person.visible_px >= MIN_AREA_FRACTION * pixels and joints >= MIN_JOINTS
