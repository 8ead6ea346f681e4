"""Predictions that another program wrote: a file for each sample, named by the sample's id."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffsight.datasets.base import AbstractDataset
from diffsight.datasets.depth import read_depth
from diffsight.datasets.files import read_array
from diffsight.datasets.labels import LabelFormat, read_label
from diffsight.errors import InputError
from diffsight.protocols import AbstractProtocol
from diffsight.tasks import AbstractTask, Depth, Prediction, Referring, Segmentation
from diffsight.types import Target

LISTED = 5
IDS = LabelFormat("segmentation", invalid=-1)


@dataclass
class StoredPredictions:
    """A folder of predictions.

    Attributes:
        folder: where the files lie; a slash of an id is ``__`` in the name of its file.
        suffixes: of the files, in the order in which they are looked for.
        used: files that were read.
        missing: ids without a file.
    """

    folder: Path
    suffixes: Sequence[str] = (".npy", ".png")
    used: set[Path] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)

    def find(self, sample_id: str) -> Path | None:
        """Return the file of a sample; None, which is noted, if there is none."""
        stem = sample_id.replace("/", "__")
        for suffix in self.suffixes:
            path = self.folder / f"{stem}{suffix}"
            if path.is_file():
                self.used.add(path)
                return path
        self.missing.append(sample_id)
        return None

    def numbers(self, sample_id: str, channels: int, what: str) -> Tensor:
        """Return the finite numbers of an NPY file, ``channels h w``.

        Raises:
            InputError: if there is no file, or it holds something else than ``what``.
        """
        path = self.find(sample_id)
        if path is None:
            name = self.folder / f"{sample_id.replace('/', '__')}.npy"
            raise InputError(f"{name}: no prediction there")
        values = read_array(path)
        if values.ndim == 2:
            values = values[None]
        if values.ndim != 3 or len(values) != channels or values.size == 0:
            raise InputError(
                f"{path}: {values.dtype} of {' x '.join(map(str, values.shape))}, but a "
                f"prediction of {what} is {channels} channel(s) x height x width"
            )
        if not np.isfinite(values).all():
            raise InputError(f"{path}: holds NaN or infinity: predict a number for every pixel")
        return torch.from_numpy(values.astype(np.float32))

    def require_all(self, count: int) -> None:
        """Refuse predictions that are not complete.

        Args:
            count: samples that were looked for.

        Raises:
            InputError: naming the first samples without a file.
        """
        if self.missing:
            raise InputError(
                f"{self.folder}: no prediction for {len(self.missing)} of {count} samples: "
                f"{_first(self.missing)}: write each as ID{' or ID'.join(self.suffixes)}"
            )

    def surplus(self) -> str:
        """Return a line about the files that belong to no sample; empty without any."""
        every = sorted(path for path in self.folder.iterdir() if path.suffix in self.suffixes)
        names = [path.name for path in every if path not in self.used]
        return f"{len(names)} files belong to no sample: {_first(names)}" if names else ""


@dataclass(frozen=True)
class StoredForm:
    """How stored predictions of one kind are read.

    Attributes:
        task: returns the task of a data set's labels.
        read: returns a label map from a file, given the unit of a PNG and the number of classes.
    """

    task: Callable[[AbstractDataset], AbstractTask]
    read: Callable[[Path, str | None, int], Tensor]


def form_of(protocol: AbstractProtocol) -> StoredForm:
    """Return how the predictions that a protocol scores are stored.

    Raises:
        InputError: for a protocol of another kind.
    """
    if protocol.kind not in FORMS:
        raise InputError(f"{protocol.name} scores {protocol.scores}, which are not read from files")
    return FORMS[protocol.kind]


def read_prediction(
    task: AbstractTask, form: StoredForm, path: Path, unit: str | None
) -> Prediction:
    """Return the prediction in a file.

    Raises:
        InputError: if the file cannot be read, or does not hold what the task predicts.
    """
    label = form.read(path, unit, len(task.class_names))
    valid = torch.ones(1, *label.shape[-2:], dtype=torch.bool)
    return task.truth(Target(label[None], valid))[0]


def _segmentation(dataset: AbstractDataset) -> AbstractTask:
    names = next(iter(dataset.class_names.values()), None)
    if not names:
        raise InputError(f"data set {dataset.name!r} names no classes: choose another protocol")
    (label,) = (key for key, value in dataset.class_names.items() if value is names)
    return Segmentation(names, label=label)


def _read_depth(path: Path, unit: str | None, classes: int) -> Tensor:
    """Return metres, ``1 h w``: those of an NPY file, or the counts of a PNG in a unit."""
    if path.suffix == ".png":
        if unit is None:
            raise InputError(f"{path}: give the unit of one count with --unit, such as mm or m/256")
        return read_depth(path, unit)[0][None]
    values = read_array(path)
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    if values.ndim != 2:
        raise InputError(f"{path}: {values.shape}, but depth is (height, width) in metres")
    return torch.from_numpy(values.astype(np.float32))[None]


def _read_ids(path: Path, unit: str | None, classes: int) -> Tensor:
    """Return class numbers from 0, ``h w``."""
    _refuse_unit(unit)
    ids = read_label(path, IDS).value[0].long()
    highest, lowest = int(ids.max()), int(ids.min())
    if lowest < 0 or highest >= classes:
        wrong = lowest if lowest < 0 else highest
        raise InputError(
            f"{path}: class {wrong}, but the {classes} classes are numbered from 0: predict one of "
            "them at every pixel"
        )
    return ids


def _read_mask(path: Path, unit: str | None, classes: int) -> Tensor:
    """Return 1 where a mask is not 0, ``h w``."""
    _refuse_unit(unit)
    return (read_label(path, IDS).value[0] > 0).long()


def _refuse_unit(unit: str | None) -> None:
    if unit is not None:
        raise InputError("--unit is for depth in PNG files: leave it out")


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")


FORMS: Mapping[str, StoredForm] = {
    "depth": StoredForm(lambda dataset: Depth(), _read_depth),
    "classes": StoredForm(_segmentation, _read_ids),
    "mask": StoredForm(lambda dataset: Referring(), _read_mask),
}
