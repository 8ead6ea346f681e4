"""Read all samples of a data set once, and keep them in memory and in a file.

Other processes of the run, and a resumed run, load the file instead of rendering or decoding the
samples again.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import diffsight
from diffsight.config import to_config
from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.errors import InputError
from diffsight.formats.tensors import load_torch
from diffsight.formats.text import reading
from diffsight.records import Record
from diffsight.rig import Rig
from diffsight.training.checkpoints import save_torch
from diffsight.training.data import read_samples
from diffsight.types import Boxes, Camera, People

SAMPLES = ".samples"  # suffix of the files
# fields of a sample that are dataclasses of tensors; a file stores their fields as a dictionary
RECORDS: Mapping[str, type[Record]] = {
    "boxes": Boxes,
    "people": People,
    "detections": People,
    "rig": Rig,
}
log = logging.getLogger(__name__)


class InMemory(AbstractDataset):
    """A data set whose samples are in memory.

    Args:
        dataset: data set from which the samples were read.
        samples: all samples, in order.
    """

    def __init__(self, dataset: AbstractDataset, samples: Sequence[Sample]) -> None:
        self.name = dataset.name
        self.describe_like(dataset)
        self._samples = samples

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``."""
        return self._samples[index]


def preload(
    dataset: AbstractDataset,
    folder: Path,
    *,
    label: str,
    workers: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> InMemory:
    """Return a data set with all its samples in memory.

    They are loaded from a file in ``folder``. If it does not exist, the data set is read and the
    file is written.

    Args:
        dataset: data set to read.
        folder: folder of the files; each configuration of a data set and label has its own.
        label: key in ``Sample.labels`` to keep.
        workers: processes that read; 0 reads in this process.
        progress: called after every sample that is read from the data set.

    Raises:
        InputError: if a sample cannot be read, the file of samples is damaged, or it cannot be
            written.
    """
    # a path in the configuration may be relative
    key = [to_config(dataset), label, str(Path.cwd()), diffsight.__version__]
    # not sorted: the order of class names is that of their ids
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    path = folder / f"{name}{SAMPLES}"
    if path.is_file():
        log.info("%d samples of %s from %s", len(dataset), dataset.name, path)
        return InMemory(dataset, _load_samples(path))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be made ({error.strerror}): give another folder"
        ) from None
    log.info("reading %d samples of %s", len(dataset), dataset.name)
    samples = []
    for sample in read_samples(dataset, label, workers):
        samples.append(_copy(sample))
        progress()
    save_torch([_to_plain(sample) for sample in samples], path)
    return InMemory(dataset, samples)


def _load_samples(path: Path) -> list[Sample]:
    with reading(path, "not a complete file of samples ({reason}): delete it"):
        return [_from_plain(row) for row in load_torch(path, mmap=True)]


def _copy(sample: Sample) -> Sample:
    """Return a copy of a sample, because tensors of a worker keep a shared-memory file open.

    The map source is left out, because it cannot be stored in a file of plain data and tensors.
    """
    return replace(
        sample,
        image=sample.image.clone(),
        labels={name: value.clone() for name, value in sample.labels.items()},
        valid={name: value.clone() for name, value in sample.valid.items()},
        map_source=None,
        **{name: _copy_record(getattr(sample, name)) for name in RECORDS},
    )


def _to_plain(sample: Sample) -> dict[str, Any]:
    """Return a sample as dictionaries of plain data and tensors."""
    records = {name: getattr(sample, name) for name in RECORDS}
    plain = {name: one if one is None else vars(one) for name, one in records.items()}
    return vars(sample) | {"camera": sample.camera and asdict(sample.camera)} | plain


def _from_plain(row: dict[str, Any]) -> Sample:
    """Return the sample of a result of ``_to_plain``."""
    types = {"camera": Camera, **RECORDS}
    records = {n: None if row[n] is None else cls(**row[n]) for n, cls in types.items()}
    values: dict[str, Any] = {**row, **records}
    return Sample(**values)


def _copy_record(record: Record | None) -> Any:
    return None if record is None else record.copied()
