"""Endless streams of batches over shuffled epochs, with a position that can be saved.

The position is the whole state: a resumed run sees the same batches as one without interruption,
with any number of workers and devices.
"""

import abc
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from diffsight.errors import InputError


def seed_of(*parts: int) -> int:
    """Return a 63-bit seed from all parts and their order, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def epoch_order(seed: int, epoch: int, size: int) -> list[int]:
    """Return the shuffled order of ``size`` samples in an epoch."""
    generator = torch.Generator().manual_seed(seed_of(seed, epoch))
    return torch.randperm(size, generator=generator).tolist()


@dataclass(frozen=True, kw_only=True)
class AbstractStream(abc.ABC):
    """An endless stream of batches; the incomplete last batch of an epoch is dropped.

    Attributes:
        batch_size: images per batch over all devices together, a multiple of their number.
        seed: seed of order, augmentation and noise.
        workers: processes that read; 0 reads in the training process.

    Raises:
        InputError: if there is less than one batch.
    """

    batch_size: int = 1
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        """Check that there is at least one batch."""
        if self.batch_size < 1 or self.size < self.batch_size:
            raise InputError(
                f"data set {self.name!r} has {self.size} samples for training, less than one "
                f"batch of {self.batch_size}: choose a batch_size of 1 to {max(1, self.size)}"
            )

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number of samples."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Name of the data set."""

    @abc.abstractmethod
    def batches(self, start: int = 0, *, rank: int = 0, world: int = 1) -> Iterator[Any]:
        """Yield the rows of device ``rank`` (of ``world``) of every batch from number ``start`` on.

        A batch has ``to(device)`` and a length.

        Raises:
            InputError: for a sample that cannot be read.
        """

    @property
    def batches_per_epoch(self) -> int:
        """Complete batches in an epoch."""
        return self.size // self.batch_size

    def state(self, batches_seen: int) -> dict[str, int]:
        """Return the position after ``batches_seen`` batches: the epoch and its used samples."""
        epoch, batch = divmod(batches_seen, self.batches_per_epoch)
        return {
            "epoch": epoch,
            "position": batch * self.batch_size,
            "samples": self.size,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    def batches_seen(self, state: dict[str, int]) -> int:
        """Return the number of batches before a position, the inverse of ``state``.

        Raises:
            InputError: if the state belongs to another stream.
        """
        for name, ours in self.state(0).items():
            if name not in ("epoch", "position") and state[name] != ours:
                raise InputError(
                    f"the checkpoint was trained with {name} {state[name]}, this run has {ours}: "
                    "resume with the same data and settings, or start again in another folder"
                )
        return state["epoch"] * self.batches_per_epoch + state["position"] // self.batch_size

    def keys(self, start: int, rank: int, world: int) -> Iterator[list[tuple[int, int]]]:
        """Yield the (epoch, sample) pairs of a device, batch by batch, without end."""
        assert self.batch_size % world == 0, "checked before the training starts"
        size = self.batch_size // world
        epoch, first = divmod(start, self.batches_per_epoch)
        while True:
            order = epoch_order(self.seed, epoch, self.size)
            for batch in range(first, self.batches_per_epoch):
                begin = batch * self.batch_size + rank * size
                yield [(epoch, index) for index in order[begin : begin + size]]
            epoch, first = epoch + 1, 0
