"""The stateful loader: order and augmentation are functions of (seed, epoch, sample).

Its whole state is a position, so a resumed run sees what the interrupted one would have seen, with
any number of workers and of devices.
"""

import hashlib
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from diffsight.datasets.base import AbstractDataset, AbstractTransform, Batch, Sample, collate
from diffsight.datasets.transforms import Resize
from diffsight.types import Draws, InputError


def seed_of(*parts: int) -> int:
    """63 bits that depend on every part and on their order, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def epoch_order(seed: int, epoch: int, size: int) -> list[int]:
    """The order of ``size`` samples in an epoch."""
    generator = torch.Generator().manual_seed(seed_of(seed, epoch))
    return torch.randperm(size, generator=generator).tolist()


class TrainingBatch(NamedTuple):
    """A batch and the seeds of what the model draws for it."""

    batch: Batch
    draws: Draws


@dataclass(frozen=True, kw_only=True)
class TrainingStream:
    """An endless stream of augmented batches over shuffled epochs.

    The incomplete last batch of an epoch is dropped.

    Attributes:
        dataset: what is learned from.
        label: the task's key of ``Sample.labels``.
        augment: changes, applied in order.
        batch_size: images per batch over all devices together; it must divide by their number.
        seed: of order, augmentation and draws.
        workers: processes that read and augment; 0 does it in the training process.

    Raises:
        InputError: if the data set has less than one batch.
    """

    dataset: AbstractDataset
    label: str
    augment: Sequence[AbstractTransform] = ()
    batch_size: int = 1
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        """Refuse a data set of less than one batch."""
        if self.batch_size < 1 or len(self.dataset) < self.batch_size:
            size = len(self.dataset)
            raise InputError(
                f"data set {self.dataset.name!r} has {size} samples for training, less than one "
                f"batch of {self.batch_size}: choose a batch_size of 1 to {max(1, size)}"
            )

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches."""
        return len(self.dataset) // self.batch_size

    def short_side(self) -> int:
        """Pixels of the shorter side of a training image before it is cropped."""
        sample = self.dataset[0]
        for change in self.augment:
            if isinstance(change, Resize):
                sample = change(sample, torch.Generator())
        return min(sample.image.shape[-2:])

    def state(self, batches_seen: int) -> dict[str, int]:
        """Where the stream stands after so many batches: epoch and samples taken from it."""
        epoch, batch = divmod(batches_seen, self.batches_per_epoch)
        return {
            "epoch": epoch,
            "position": batch * self.batch_size,
            "samples": len(self.dataset),
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    def batches_seen(self, state: dict[str, int]) -> int:
        """The inverse of ``state``.

        Raises:
            InputError: if the state is that of another stream.
        """
        for name, ours in self.state(0).items():
            if name not in ("epoch", "position") and state[name] != ours:
                raise InputError(
                    f"the checkpoint was trained with {name} {state[name]}, this run has {ours}: "
                    "resume with the same data and settings, or start again in another folder"
                )
        return state["epoch"] * self.batches_per_epoch + state["position"] // self.batch_size

    def batches(self, start: int = 0, *, rank: int = 0, world: int = 1) -> Iterator[TrainingBatch]:
        """Batches from number ``start`` on, of each the part of device ``rank`` of ``world``.

        Raises:
            InputError: for a sample that cannot be read, or a batch of different sizes.
        """
        assert self.batch_size % world == 0, "checked by fit"
        loader = _loader(
            _Augmented(self.dataset, self.augment, self.seed),
            self.workers,
            batch_sampler=_Keys(self, start, rank, world),
        )
        for rows in loader:
            samples, seeds = zip(*_raise_bad(rows), strict=True)
            yield TrainingBatch(collate(samples, self.label), Draws(seeds))


class ValidationBatches:
    """Every sample of a data set once, in order; consecutive samples of one size share a batch.

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
        """The batches.

        Raises:
            InputError: for a sample that cannot be read.
        """
        held: list[Sample] = []
        for row in _loader(
            _Plain(self.dataset), self.workers, sampler=self.indices, batch_size=None
        ):
            (sample,) = _raise_bad([row])
            if held and sample.image.shape != held[0].image.shape:
                yield collate(held, self.label)
                held = []
            held.append(sample)
            if len(held) == self.batch_size:
                yield collate(held, self.label)
                held = []
        if held:
            yield collate(held, self.label)


class InMemory(AbstractDataset):
    """Samples that were read once, with the one label that a task needs.

    Args:
        dataset: what to read.
        label: key of ``Sample.labels`` to keep.
        workers: processes that read; 0 reads in this process.
        progress: called after every sample.
    """

    def __init__(
        self,
        dataset: AbstractDataset,
        *,
        label: str,
        workers: int = 0,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = dataset.name
        self.class_names = dataset.class_names
        self._samples: list[Sample] = []
        # workers send the one label only: shared memory is scarce
        rows = _loader(_Plain(dataset, keep=label), workers, batch_size=None)
        for row in rows:
            (sample,) = _raise_bad([row])
            self._samples.append(_owned(sample))
            progress()

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        """The sample at ``index``."""
        return self._samples[index]


class _Keys:
    """The (epoch, sample) pairs of one device, batch by batch, without end."""

    def __init__(self, stream: TrainingStream, start: int, rank: int, world: int) -> None:
        self.stream, self.start = stream, start
        share = stream.batch_size // world
        self.mine = slice(rank * share, (rank + 1) * share)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size, per_epoch = self.stream.batch_size, self.stream.batches_per_epoch
        epoch, first = divmod(self.start, per_epoch)
        while True:
            order = epoch_order(self.stream.seed, epoch, len(self.stream.dataset))
            for batch in range(first, per_epoch):
                rows = order[batch * size : (batch + 1) * size]
                yield [(epoch, index) for index in rows[self.mine]]
            epoch, first = epoch + 1, 0


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


def _owned(sample: Sample) -> Sample:
    """A copy: what a worker sends lies in shared memory and keeps a file open."""
    return replace(
        sample,
        image=sample.image.clone(),
        labels={name: value.clone() for name, value in sample.labels.items()},
        valid={name: value.clone() for name, value in sample.valid.items()},
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
    # Ctrl-C and SIGTERM are answered by the training process, which ends its workers itself
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
