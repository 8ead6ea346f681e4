"""Endless streams of batches over shuffled epochs, which can continue from a saved position.

A stream has no other state: a resumed run gets the same batches as one without interruption, with
any number of workers and devices.
"""

import abc
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from diffsight.errors import InputError


def seed_of(*parts: int) -> int:
    """Return a 63-bit seed that depends on all numbers and their order, on any machine alike."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def epoch_order(seed: int, epoch: int, size: int) -> list[int]:
    """Return the numbers 0 to ``size - 1`` of all samples in the shuffled order of an epoch."""
    generator = torch.Generator().manual_seed(seed_of(seed, epoch))
    return torch.randperm(size, generator=generator).tolist()


@dataclass(frozen=True, kw_only=True)
class AbstractStream(abc.ABC):
    """An endless stream of batches; the incomplete last batch of an epoch is dropped.

    Attributes:
        batch_size: images per batch over all devices together, a multiple of the number of devices.
        seed: seed of order, augmentation and noise.
        workers: processes that read; 0 reads in the training process.

    Raises:
        InputError: if the data set has fewer samples than a batch.
    """

    batch_size: int = 1
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        """Check that the data set has at least one batch."""
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
        """Yield the part of every batch that one device trains on, without end.

        Args:
            start: number of the first batch.
            rank: number of the device.
            world: number of devices.

        Yields:
            Objects with ``to(device)`` and a length.

        Raises:
            InputError: if a sample cannot be read.
        """

    @property
    def batches_per_epoch(self) -> int:
        """Complete batches in an epoch."""
        return self.size // self.batch_size

    def state(self, batches_seen: int) -> dict[str, int]:
        """Return the position after ``batches_seen`` batches as plain data, for a checkpoint.

        It has the epoch, the number of used samples in it (``position``), and settings that a
        resumed run must share.
        """
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
            InputError: if the position belongs to another data set, batch size or seed.
        """
        for name, ours in self.state(0).items():
            if name not in ("epoch", "position") and state[name] != ours:
                raise InputError(
                    f"the checkpoint was trained with {name} {state[name]}, this run has {ours}: "
                    "resume with the same data and settings, or start again in another folder"
                )
        return state["epoch"] * self.batches_per_epoch + state["position"] // self.batch_size

    def keys(self, start: int, rank: int, world: int) -> Iterator[list[tuple[int, int]]]:
        """Yield the samples of each batch on one device, without end.

        Args:
            start: number of the first batch.
            rank: number of the device.
            world: number of devices.

        Yields:
            Epoch and number of each sample of a batch.
        """
        assert self.batch_size % world == 0, "checked before the training starts"
        size = self.batch_size // world
        epoch, first = divmod(start, self.batches_per_epoch)
        while True:
            order = epoch_order(self.seed, epoch, self.size)
            for batch in range(first, self.batches_per_epoch):
                begin = batch * self.batch_size + rank * size
                yield [(epoch, index) for index in order[begin : begin + size]]
            epoch, first = epoch + 1, 0
