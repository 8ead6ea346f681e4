"""``ReferringRooms``, a data set of rooms with referring expressions."""

import numpy as np
import torch

from diffsight.datasets.base import Sample
from diffsight.rooms.dataset import AbstractRooms, camera_of
from diffsight.rooms.draw import stream
from diffsight.rooms.labels import Geometry
from diffsight.rooms.language import expressions, look_around
from diffsight.rooms.render import add_noise, render_clean
from diffsight.rooms.scene import sample_scene
from diffsight.rooms.world import Scene

# a scene without an expression is replaced by the scene whose index is larger by this number
REPLACEMENT_OFFSET = 10**9


class ReferringRooms(AbstractRooms):
    """Rooms with one or two sentences, all about the same visible object and about no other.

    The label ``referent`` is ``h w`` of int64, 1 at the pixels of the object; all pixels are valid.

    Args:
        split: ``train``, ``val`` or ``test``; the splits have no scene in common.
        count: number of scenes.
        size: side in pixels, or (height, width).
        seed: seed of the data set; every seed has its own scenes.

    Raises:
        InputError: for an unknown split, a count below 1, or a size below 8 or too large for the
            memory.
    """

    world = "referring-rooms"

    def __init__(
        self,
        split: str = "train",
        count: int = 1000,
        size: int | tuple[int, int] = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(split, count, size, seed)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample of the scene with this index; the prompt is its first sentence."""
        self.require(index)
        scene, thing, sentences = self._sample_referent(index)
        clean = render_clean(scene, *self.size)
        instance = Geometry(scene, *self.size, clean).instance
        mask = torch.from_numpy(np.asarray(instance == thing))
        return Sample(
            id=scene.id,
            image=torch.from_numpy(add_noise(scene, clean)),
            labels={"referent": mask.long()},
            valid={"referent": torch.ones_like(mask)},
            prompt=sentences[0],
            camera=camera_of(scene, *self.size),
            sentences=sentences,
        )

    def _sample_referent(self, index: int) -> tuple[Scene, int, tuple[str, ...]]:
        """Return a scene, the index of one of its things and the expressions for this thing."""
        while True:
            scene = sample_scene(self.split, self.seed, index)
            phrases = expressions(scene, look_around(scene, *self.size))
            if phrases:
                break
            index += REPLACEMENT_OFFSET
        things = sorted({thing for _, thing in phrases})
        thing = stream(self.split, self.seed, index, "referent").choice(things)
        return scene, thing, tuple(text for text, own in phrases if own == thing)
