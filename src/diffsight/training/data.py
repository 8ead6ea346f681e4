"""Batches of labelled images for training and validation.

The augmentation of a sample depends only on the seed, the epoch and the number of the sample.
"""

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from diffsight.datasets.base import AbstractDataset, AbstractTransform, Batch, Sample, collate
from diffsight.datasets.class_transforms import RandomScale
from diffsight.datasets.person_crop import PersonCrop
from diffsight.datasets.transforms import Resize
from diffsight.errors import InputError
from diffsight.inference.text_features import TextFeatureCache
from diffsight.ops.groups import group_consecutive
from diffsight.training.stream import AbstractStream, seed_of
from diffsight.types import Draws, TextFeatures


@dataclass(frozen=True)
class TrainingBatch:
    """A batch, and the seeds of the random numbers (such as noise) that the model draws for it.

    Attributes:
        batch: inputs and targets.
        draws: one seed per image.
    """

    batch: Batch
    draws: Draws

    def to(self, device: torch.device | str) -> "TrainingBatch":
        """Return the batch on ``device``."""
        return replace(self, batch=self.batch.to(device))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.batch.ids)


@dataclass(frozen=True, kw_only=True)
class TrainingStream(AbstractStream):
    """An endless stream of augmented batches over shuffled epochs.

    Attributes:
        dataset: training set.
        label: key in ``Sample.labels`` of the task's label.
        augment: augmentations, applied in order.
        text_features: cache of encoded sentences for all epochs.
    """

    dataset: AbstractDataset
    label: str
    augment: Sequence[AbstractTransform] = ()
    text_features: TextFeatures = field(default_factory=TextFeatureCache, compare=False)

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.dataset.name

    def short_side(self) -> int | None:
        """Return the shorter side in pixels to which training images are resized before cropping.

        Without a transform that resizes, it is that of the first image. None for several cameras,
        because the model resizes their images itself.
        """
        sample = self.dataset[0]
        if sample.rig is not None:
            return None
        for change in self.augment:
            if isinstance(change, RandomScale):
                return change.short_side
            if isinstance(change, PersonCrop):
                return min(change.hw)
            if isinstance(change, Resize):
                sample = change(sample, torch.Generator())
        return min(sample.image.shape[-2:])

    def example_pixels(self) -> int:
        """Return the number of values (pixels times channels) of an augmented training image."""
        ((sample, _),) = self._augmented([(0, 0)])
        return sample.numel

    def batches(self, start: int = 0, *, rank: int = 0, world: int = 1) -> Iterator[TrainingBatch]:
        """Yield the part of every batch that one device trains on, without end.

        Args:
            start: number of the first batch.
            rank: number of the device.
            world: number of devices.

        Raises:
            InputError: if a sample cannot be read, or the images of a batch differ in size.
        """
        for rows in _read_all(self._augmented, self.keys(start, rank, world), self.workers):
            samples, seeds = zip(*rows, strict=True)
            batch = with_text_features(collate(samples, self.label), self.text_features)
            yield TrainingBatch(batch, Draws(seeds))

    def validation_batches(
        self, dataset: AbstractDataset, rank: int, world: int
    ) -> Iterator[Batch]:
        """Yield the validation batches of a device, with the batch size and workers of the stream.

        Args:
            dataset: validation set.
            rank: number of the device.
            world: number of devices.

        Raises:
            InputError: as ``validation_batches`` of this module.
        """
        return validation_batches(
            dataset,
            label=self.label,
            batch_size=self.batch_size,
            workers=self.workers,
            rank=rank,
            world=world,
            text_features=self.text_features,
        )

    def _augmented(self, keys: Sequence[tuple[int, int]]) -> list[tuple[Sample, int]]:
        """Return the augmented samples of a batch, each with the seed of its random numbers.

        Args:
            keys: epoch and number of each sample.
        """
        rows = []
        for key in keys:
            seed = seed_of(self.seed, *key)
            generator = torch.Generator().manual_seed(seed)
            sample = self.dataset[key[1]]
            for change in self.augment:
                if sample.rig is not None and not change.accepts_rigs:
                    raise InputError(
                        f"{type(change).__name__} does not support several cameras: use "
                        "RandomCameras and RandomVehicle"
                    )
                sample = change(sample, generator)
            rows.append((sample, seed))
        return rows


def require_samples(dataset: AbstractDataset, world: int) -> None:
    """Check that every device has a sample of the validation set.

    Raises:
        InputError: if there are fewer samples than devices.
    """
    if len(dataset) < world:
        raise InputError(
            f"validation set {dataset.name!r} has {len(dataset)} samples, but needs one per device "
            f"({world}): add samples, or use fewer devices"
        )


def validation_batches(
    dataset: AbstractDataset,
    *,
    label: str,
    batch_size: int,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    text_features: TextFeatures | None = None,
) -> Iterator[Batch]:
    """Yield the validation batches of a device, which together have every sample once, in order.

    A sample with several sentences is repeated for each of them. Consecutive samples whose images
    and labels have the same size are put into one batch.

    Args:
        dataset: validation set.
        label: key in ``Sample.labels`` of the task's label.
        batch_size: largest number of images per batch, over all devices together.
        workers: processes that read; 0 reads in the training process.
        rank: number of this device.
        world: number of devices; sample i belongs to device i modulo ``world``.
        text_features: cache of encoded sentences; None: sentences are encoded every time.

    Raises:
        InputError: if a sample cannot be read, or there are fewer samples than devices.
    """
    require_samples(dataset, world)
    read = _read_all(dataset.__getitem__, range(rank, len(dataset), world), workers)
    samples = (one for sample in read for one in sample.split_by_sentence())
    size = max(1, batch_size // world)
    for batch in group_consecutive(samples, size, lambda s: (s.image.shape, s.labels[label].shape)):
        yield with_text_features(collate(batch, label), text_features)


def with_text_features(batch: Batch, text_features: TextFeatures | None) -> Batch:
    """Return a batch whose sentences are encoded only if they are not in the cache.

    Args:
        batch: batch with sentences, or without any.
        text_features: cache of encoded sentences; None removes it.
    """
    return replace(batch, inputs=replace(batch.inputs, text_features=text_features))


def read_samples(dataset: AbstractDataset, label: str, workers: int = 0) -> Iterator[Sample]:
    """Yield every sample once, in order, with one label only.

    Args:
        dataset: data set to read.
        label: key in ``Sample.labels`` to keep; others would take shared memory of the workers.
        workers: processes that read; 0 reads in this process.

    Raises:
        InputError: if a sample cannot be read.
    """
    return _read_all(partial(_read_with_label, dataset, label), range(len(dataset)), workers)


def _read_with_label(dataset: AbstractDataset, label: str, index: int) -> Sample:
    """Return a sample without its other labels."""
    sample = dataset[index]
    labels, valid = (
        {name: value for name, value in maps.items() if name == label}
        for maps in (sample.labels, sample.valid)
    )
    return replace(sample, labels=labels, valid=valid)


def _read_all(read: Callable[[Any], Any], keys: Iterable[Any], workers: int) -> Iterator[Any]:
    """Yield ``read(key)`` for every key, in order.

    Args:
        read: function that is called in the workers.
        keys: arguments of the calls.
        workers: number of processes; 0 reads in this process.

    Raises:
        InputError: if ``read`` raises it.
    """
    loader = DataLoader(
        _Rows(read),
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        collate_fn=_same,
        # otherwise the loader would draw a number from torch's global generator
        generator=torch.Generator(),
        worker_init_fn=_ignore_interrupts,
    )
    for row in loader:
        if isinstance(row, InputError):
            raise row
        yield row


class _Rows(torch.utils.data.Dataset):
    """A torch data set whose item of a key is ``read(key)``.

    An ``InputError`` is returned, not raised: ``DataLoader`` would add a worker's traceback to it.
    """

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self.read = read

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.read(key)
        except InputError as error:
            return error


def _same(row: Any) -> Any:
    return row


def _ignore_interrupts(_: int) -> None:
    """Ignore Ctrl-C in a worker, and end it on SIGTERM: the training process handles Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
