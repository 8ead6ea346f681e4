"""Labelled images for a training: augmentation is a function of (seed, epoch, sample)."""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from diffsight.datasets.base import AbstractDataset, AbstractTransform, Batch, Sample, collate
from diffsight.datasets.class_transforms import RandomScale
from diffsight.datasets.transforms import Resize
from diffsight.errors import InputError
from diffsight.training.stream import AbstractStream, seed_of
from diffsight.types import Draws


@dataclass(frozen=True)
class TrainingBatch:
    """A batch and the seeds of what the model draws for it."""

    batch: Batch
    draws: Draws

    def to(self, device: torch.device | str) -> "TrainingBatch":
        """Copy images and labels to ``device``."""
        return replace(self, batch=self.batch.to(device))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.batch.ids)


@dataclass(frozen=True, kw_only=True)
class TrainingStream(AbstractStream):
    """An endless stream of augmented batches over shuffled epochs.

    Attributes:
        dataset: training set.
        label: the task's key of ``Sample.labels``.
        augment: changes, applied in order.
    """

    dataset: AbstractDataset
    label: str
    augment: Sequence[AbstractTransform] = ()

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.dataset.name

    def short_side(self) -> int:
        """Return the pixels of the shorter side of a training image before it is cropped."""
        sample = self.dataset[0]
        for change in self.augment:
            if isinstance(change, RandomScale):
                return change.short_side
            if isinstance(change, Resize):
                sample = change(sample, torch.Generator())
        return min(sample.image.shape[-2:])

    def batches(self, start: int = 0, *, rank: int = 0, world: int = 1) -> Iterator[TrainingBatch]:
        """Yield batches from number ``start`` on, of each the part of device ``rank`` of ``world``.

        Raises:
            InputError: for a sample that cannot be read, or a batch of different sizes.
        """
        loader = _loader(
            _Augmented(self.dataset, self.augment, self.seed),
            self.workers,
            batch_sampler=_Keys(self, start, rank, world),
        )
        for rows in loader:
            samples, seeds = zip(*_raise_bad(rows), strict=True)
            yield TrainingBatch(collate(samples, self.label), Draws(seeds))


class ValidationBatches:
    """Every sample of a data set once, in order, with each of its sentences.

    Consecutive samples of one size are in one batch.

    Args:
        dataset: what is scored.
        label: the task's key of ``Sample.labels``.
        batch_size: most images per batch.
        workers: processes that read; 0 does it in the training process.
        rank: this device.
        world: devices; sample i belongs to device i modulo ``world``.
    """

    def __init__(
        self,
        dataset: AbstractDataset,
        *,
        label: str,
        batch_size: int,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.dataset = dataset
        self.label = label
        self.batch_size = batch_size
        self.workers = workers
        self.indices = range(rank, len(dataset), world)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches.

        Raises:
            InputError: for a sample that cannot be read.
        """
        held: list[Sample] = []
        for row in _loader(
            _Plain(self.dataset), self.workers, sampler=self.indices, batch_size=None
        ):
            (read,) = _raise_bad([row])
            for sample in read.per_sentence():
                if held and sample.image.shape != held[0].image.shape:
                    yield collate(held, self.label)
                    held = []
                held.append(sample)
                if len(held) == self.batch_size:
                    yield collate(held, self.label)
                    held = []
        if held:
            yield collate(held, self.label)


def read_samples(dataset: AbstractDataset, label: str, workers: int = 0) -> Iterator[Sample]:
    """Yield every sample once, in order, with one label only.

    Args:
        dataset: what to read.
        label: key of ``Sample.labels`` to keep: what workers send takes shared memory.
        workers: processes that read; 0 reads in this process.

    Raises:
        InputError: for a sample that cannot be read.
    """
    for row in _loader(_Plain(dataset, keep=label), workers, batch_size=None):
        yield from _raise_bad([row])


class _Keys:
    """Sampler of a loader: the keys of every batch."""

    def __init__(self, stream: AbstractStream, start: int, rank: int, world: int) -> None:
        self.stream, self.where = stream, (start, rank, world)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.stream.keys(*self.where)


# A bad sample travels as a value: DataLoader would wrap its error in a traceback of the worker,
# and the user is to see one line.
class _Augmented(torch.utils.data.Dataset):
    def __init__(
        self, dataset: AbstractDataset, augment: Sequence[AbstractTransform], seed: int
    ) -> None:
        self.dataset, self.augment, self.seed = dataset, augment, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Sample, int] | InputError:
        seed = seed_of(self.seed, *key)
        generator = torch.Generator().manual_seed(seed)
        try:
            sample = self.dataset[key[1]]
            for change in self.augment:
                sample = change(sample, generator)
        except InputError as error:
            return error
        return sample, seed


class _Plain(torch.utils.data.Dataset):
    def __init__(self, dataset: AbstractDataset, keep: str | None = None) -> None:
        self.dataset, self.keep = dataset, keep

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample | InputError:
        try:
            sample = self.dataset[index]
        except InputError as error:
            return error
        return sample if self.keep is None else _only(sample, self.keep)


def _only(sample: Sample, label: str) -> Sample:
    return replace(
        sample,
        labels={name: value for name, value in sample.labels.items() if name == label},
        valid={name: value for name, value in sample.valid.items() if name == label},
    )


def _raise_bad(rows: Sequence[Any]) -> list[Any]:
    for row in rows:
        if isinstance(row, InputError):
            raise row
    return list(rows)


def _loader(dataset: torch.utils.data.Dataset, workers: int, **how: Any) -> DataLoader:
    # its own generator: the loader would otherwise take a number from torch's global one
    return DataLoader(
        dataset,
        num_workers=workers,
        collate_fn=list if "batch_sampler" in how else _same,
        generator=torch.Generator(),
        worker_init_fn=_worker,
        **how,
    )


def _same(row: Any) -> Any:
    return row


def _worker(_: int) -> None:
    # the training process handles Ctrl-C and SIGTERM, and ends its workers itself
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
