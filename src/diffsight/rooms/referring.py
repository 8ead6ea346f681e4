"""``ReferringRooms``: a thing in a room, and what may be said of it."""

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

# a scene in which no thing can be identified is replaced by one that no data set of rooms reaches
ELSEWHERE = 10**9


class ReferringRooms(AbstractRooms):
    """One thing per scene, with one or two expressions that fit it and nothing else in view.

    Label ``referent`` is ``h w`` of int64, 1 where the thing is; every pixel counts.

    Args:
        split: ``train``, ``val`` or ``test``: three worlds without a scene in common.
        count: number of scenes.
        size: one number, or (height, width) in pixels.
        seed: another seed gives other scenes.
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
        """Return the scene with this index; its prompt is the first of its sentences."""
        self.require(index)
        scene, thing, sentences = self._referent(index)
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

    def _referent(self, index: int) -> tuple[Scene, int, tuple[str, ...]]:
        """Return a scene, one of its things and the expressions for it."""
        while True:
            scene = sample_scene(self.split, self.seed, index)
            phrases = expressions(scene, look_around(scene, *self.size))
            if phrases:
                break
            index += ELSEWHERE
        things = sorted({thing for _, thing in phrases})
        thing = stream(self.split, self.seed, index, "referent").choice(things)
        return scene, thing, tuple(text for text, own in phrases if own == thing)
