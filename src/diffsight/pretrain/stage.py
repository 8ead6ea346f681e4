"""The interface that the stages of a pretraining implement."""

import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from diffsight.config import Configurable
from diffsight.pretrain.pictures import Pictures
from diffsight.training.learner import Validation
from diffsight.training.objective import AbstractObjective
from diffsight.training.optim import AdamW
from diffsight.training.schedules import AbstractSchedule
from diffsight.training.stream import AbstractStream, seed_of
from diffsight.types import Picture, Record

Preview = tuple[Picture, dict[str, float]]
"""A picture that shows the state of a training, and scores by name."""


@dataclass(frozen=True)
class StageContext:
    """The folders and the data that a stage works with.

    Attributes:
        model: diffusers folder with the parts of earlier stages, to which a stage adds its own.
        cache: folder for renderings and outputs of frozen networks.
        train: training set.
        held_out: validation set.
        seed: seed of the run.
    """

    model: Path
    cache: Path
    train: Pictures
    held_out: Pictures
    seed: int


@dataclass(frozen=True)
class PictureBatch(Record):
    """Base class of training batches of pictures."""

    image: Float[Tensor, "b 3 _ _"]

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.image)


class AbstractStage(Configurable, abc.ABC):
    """A stage that trains one part of the model.

    Attributes:
        name: name of the stage's folder in the run.
        steps: optimiser steps.
        batch_size: pictures per step over all devices together.
        optim: AdamW and its parameter groups.
        schedule: learning-rate schedule; None is a constant learning rate.
    """

    name: str
    steps: int
    batch_size: int
    optim: AdamW
    schedule: AbstractSchedule | None

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of other networks whose features the stage imitates; the model card lists them."""
        return ()

    @abc.abstractmethod
    def check(self, size: int, stride: int | None) -> int | None:
        """Check that the sizes of the stage fit together, before pictures are rendered.

        Args:
            size: side of the pictures in pixels.
            stride: stride of the autoencoder before this stage; None without an autoencoder.

        Returns:
            The stride of the autoencoder after this stage; None without an autoencoder.

        Raises:
            InputError: if a size does not fit; the message gives one that does.
        """

    @abc.abstractmethod
    def objective(self, context: StageContext) -> AbstractObjective:
        """Return the objective that the stage minimises, with the networks it trains.

        Raises:
            InputError: if a part from an earlier stage is missing.
        """

    @abc.abstractmethod
    def fetch(self, context: StageContext) -> "Fetch":
        """Return a function that makes a training batch, see ``Fetch``."""

    @abc.abstractmethod
    def held_out(self, context: StageContext) -> Validation:
        """Return a function that yields the validation batches of a device."""

    @abc.abstractmethod
    def export(self, objective: Any, context: StageContext, folder: Path) -> None:
        """Write the trained part to a diffusers folder.

        Args:
            objective: objective of the stage after the training.
            context: context of the stage.
            folder: diffusers folder of the model.
        """

    @abc.abstractmethod
    def preview(self, objective: Any, context: StageContext, folder: Path) -> Preview:
        """Return a picture that shows the state of the training, and further scores.

        Args:
            objective: objective of the stage in its present state.
            context: context of the stage.
            folder: temporary folder for files.
        """


Fetch = Callable[[list[int], list[int]], Any]
"""A function from indices of pictures, and a seed for each, to a batch.

A batch has ``to(device)`` and a length.
"""


@dataclass(frozen=True, kw_only=True)
class PictureStream(AbstractStream):
    """An endless stream of batches of pictures.

    Attributes:
        pictures: number of pictures.
        fetch: function that makes a batch.
    """

    pictures: int
    fetch: Fetch

    @property
    def size(self) -> int:
        """Number of pictures."""
        return self.pictures

    @property
    def name(self) -> str:
        """Name of the data set."""
        return "rooms"

    def batches(self, start: int = 0, *, rank: int = 0, world: int = 1) -> Iterator[Any]:
        """Yield the part of every batch that one device trains on, see ``AbstractStream``."""
        for keys in self.keys(start, rank, world):
            yield self.fetch([i for _, i in keys], [seed_of(self.seed, *key) for key in keys])
