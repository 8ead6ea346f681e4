"""Predictions that another program wrote: a file for each sample, named by its id, or one list."""

import abc
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffsight.datasets.base import AbstractDataset
from diffsight.datasets.depth import read_depth
from diffsight.datasets.files import read_array, read_json
from diffsight.datasets.labels import LabelFormat, read_label
from diffsight.errors import InputError
from diffsight.protocols import AbstractProtocol
from diffsight.tasks import (
    AbstractTask,
    Depth,
    Pose,
    PosePrediction,
    Prediction,
    Referring,
    Segmentation,
)
from diffsight.types import People, Target

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


class AbstractStored(abc.ABC):
    """Predictions of one data set on disk.

    Attributes:
        path: where they lie.
        task: of the predictions.
    """

    path: Path
    task: AbstractTask

    @abc.abstractmethod
    def prediction(
        self, sample_id: str, hw: tuple[int, int], unit: str | None
    ) -> Prediction | None:
        """Return the prediction of a sample; None, which is noted, if there is none.

        Args:
            sample_id: of the sample.
            hw: height and width of its label.
            unit: of one count of depth in PNG files.

        Raises:
            InputError: if it cannot be read, does not fit, or is not what the task predicts.
        """

    @abc.abstractmethod
    def require_all(self, count: int) -> None:
        """Refuse predictions that are not complete.

        Args:
            count: samples that were looked for.

        Raises:
            InputError: naming what is missing.
        """

    @abc.abstractmethod
    def surplus(self) -> str:
        """Return a line about predictions that belong to no sample; empty without any."""


class StoredMaps(AbstractStored):
    """A folder of label maps.

    Args:
        folder: where they lie.
        task: of the predictions.
        read: returns a label map from a file, given the unit of a PNG and the number of classes.

    Raises:
        InputError: if there is no such folder.
    """

    def __init__(
        self, folder: Path, task: AbstractTask, read: Callable[[Path, str | None, int], Tensor]
    ) -> None:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder: check --predictions")
        self.path = folder
        self.task = task
        self._files = StoredPredictions(folder)
        self._read = read

    def prediction(
        self, sample_id: str, hw: tuple[int, int], unit: str | None
    ) -> Prediction | None:
        """Return the prediction of a sample, see ``AbstractStored``."""
        path = self._files.find(sample_id)
        if path is None:
            return None
        label = self._read(path, unit, len(self.task.class_names))
        if tuple(label.shape[-2:]) != hw:
            sizes = [f"{columns} x {rows}" for rows, columns in (label.shape[-2:], hw)]
            raise InputError(f"{path}: {sizes[0]} pixels, its label has {sizes[1]}: resize it")
        valid = torch.ones(1, *hw, dtype=torch.bool)
        return self.task.truth(Target(label[None], valid))[0]

    def require_all(self, count: int) -> None:
        """Refuse a folder in which samples have no file."""
        self._files.require_all(count)

    def surplus(self) -> str:
        """Return a line about the files that belong to no sample; empty without any."""
        return self._files.surplus()


class StoredPoses(AbstractStored):
    """Joints of people that another program wrote.

    Args:
        path: JSON list of ``image_id``, ``keypoints`` and ``score``.

    Raises:
        InputError: if it is no such list.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.task = self._pose = Pose()
        joints = len(self._pose.names)
        self._rows: dict[str, list[tuple[list[float], float]]] = defaultdict(list)
        self._used: set[str] = set()
        try:
            for i, row in enumerate(read_json(path)):
                numbers = [float(x) for x in row["keypoints"]]
                if len(numbers) != 3 * joints:
                    raise InputError(
                        f"{path}: entry {i} has {len(numbers)} numbers for {joints} joints of "
                        "three each: correct it"
                    )
                self._rows[str(row["image_id"])].append((numbers, float(row["score"])))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{path}: no joints ({type(error).__name__}: {error}): give a JSON list of "
                "image_id, keypoints and score"
            ) from None

    def prediction(self, sample_id: str, hw: tuple[int, int], unit: str | None) -> PosePrediction:
        """Return the people of an image; nobody where the file has none."""
        _refuse_unit(unit)
        rows = self._rows.get(sample_id, [])
        self._used.add(sample_id)
        joints = torch.tensor([numbers for numbers, _ in rows])
        joints = joints.reshape(-1, len(self._pose.names), 3)
        scores = torch.tensor([score for _, score in rows])
        edges = torch.cat([joints[..., :2].amin(1), joints[..., :2].amax(1)], dim=1)
        people = replace(People.of_boxes(edges, scores), keypoints=joints)
        return PosePrediction(people, hw, self._pose.names, self._pose.limbs)

    def require_all(self, count: int) -> None:
        """Refuse joints none of which are of the samples: an image without people has none."""
        if not self._rows.keys() & self._used:
            raise InputError(
                f"{self.path}: {self._others()}: give the results of the images of the data set"
            )

    def surplus(self) -> str:
        """Return a line about the images that are no samples; empty without any."""
        return self._others() if self._rows.keys() - self._used else ""

    def _others(self) -> str:
        others = [name for name in self._rows if name not in self._used]
        return f"{len(others)} images are not in the data set: {_first(others)}"


def open_stored(path: Path, protocol: AbstractProtocol, dataset: AbstractDataset) -> AbstractStored:
    """Return predictions of the kind that a protocol scores.

    Args:
        path: folder of label maps, or for joints a JSON file as COCO's server reads it.
        protocol: which scores them.
        dataset: whose samples they are of.

    Raises:
        InputError: for a protocol of another kind, or if they cannot be used.
    """
    if protocol.kind not in FORMS:
        raise InputError(f"{protocol.name} scores {protocol.scores}, which are not read from files")
    return FORMS[protocol.kind](path, dataset)


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


FORMS: Mapping[str, Callable[[Path, AbstractDataset], AbstractStored]] = {
    "depth": lambda path, dataset: StoredMaps(path, Depth(), _read_depth),
    "classes": lambda path, dataset: StoredMaps(path, _segmentation(dataset), _read_ids),
    "mask": lambda path, dataset: StoredMaps(path, Referring(), _read_mask),
    "pose": lambda path, dataset: StoredPoses(path),
}
