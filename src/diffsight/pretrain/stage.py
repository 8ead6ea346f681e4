"""What the stages of a pretraining have in common."""

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


@dataclass(frozen=True)
class StageContext:
    """What a stage is made from.

    Attributes:
        model: diffusers folder with the parts of the stages before; a stage adds its own.
        cache: folder for what is computed once.
        train: training set.
        held_out: validation set.
        seed: of everything random.
    """

    model: Path
    cache: Path
    train: Pictures
    held_out: Pictures
    seed: int


@dataclass(frozen=True)
class PictureBatch(Record):
    """Pictures, and what else a training step needs of them."""

    image: Float[Tensor, "b 3 _ _"]

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.image)


class AbstractStage(Configurable, abc.ABC):
    """One part of the model, trained on its own.

    Attributes:
        name: of the stage's folder in the run.
        steps: optimiser steps.
        batch_size: pictures per step over all devices together.
        optim: AdamW and its groups.
        schedule: learning rate over the stage; default: constant.
    """

    name: str
    steps: int
    batch_size: int
    optim: AdamW
    schedule: AbstractSchedule | None

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of backbones outside of the model that it learns from; default: none."""
        return ()

    @abc.abstractmethod
    def check(self, size: int, stride: int | None) -> int | None:
        """Refuse sides that do not fit, before a picture is rendered.

        Args:
            size: side of the pictures.
            stride: of the autoencoder that this stage finds; None if there is none.

        Returns:
            Stride of the autoencoder that the next stage finds.

        Raises:
            InputError: if a size does not fit, naming one that does.
        """

    @abc.abstractmethod
    def objective(self, context: StageContext) -> AbstractObjective:
        """Return what is minimised.

        Raises:
            InputError: if an earlier stage is missing.
        """

    @abc.abstractmethod
    def fetch(self, context: StageContext) -> "Fetch":
        """Return a function that makes a training batch."""

    @abc.abstractmethod
    def held_out(self, context: StageContext) -> Validation:
        """Return a function that gives the batches that are scored."""

    @abc.abstractmethod
    def export(self, objective: Any, context: StageContext, folder: Path) -> None:
        """Write the trained part into a diffusers folder."""

    @abc.abstractmethod
    def preview(self, objective: Any, context: StageContext, folder: Path) -> Preview:
        """Return a picture, and further scores.

        Args:
            objective: as it stands.
            context: what it was made from.
            folder: temporary folder.
        """


# indices of pictures, a seed for each -> a batch with ``to(device)`` and a length
Fetch = Callable[[list[int], list[int]], Any]


@dataclass(frozen=True, kw_only=True)
class PictureStream(AbstractStream):
    """An endless stream over pictures.

    Attributes:
        pictures: how many there are.
        fetch: makes a batch.
    """

    pictures: int
    fetch: Fetch

    @property
    def size(self) -> int:
        """Number of pictures."""
        return self.pictures

    @property
    def name(self) -> str:
        """Of the data set."""
        return "rooms"

    def batches(self, start: int = 0, *, rank: int = 0, world: int = 1) -> Iterator[Any]:
        """Yield batches from number ``start`` on."""
        for keys in self.keys(start, rank, world):
            yield self.fetch([i for _, i in keys], [seed_of(self.seed, *key) for key in keys])
