"""Read predictions of another program: one file per sample, or one JSON list for joints."""

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

LISTED = 5  # names in a message
IDS = LabelFormat("segmentation", invalid=-1)


@dataclass
class StoredPredictions:
    """A folder of prediction files, which records the files that were read or are missing.

    Attributes:
        folder: folder of the files. A file is named by the id of its sample, with ``__`` for every
            slash.
        suffixes: suffixes to look for, in this order.
        used: files that were read.
        missing: ids of samples without a file.
    """

    folder: Path
    suffixes: Sequence[str] = (".npy", ".png")
    used: set[Path] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)

    def find(self, sample_id: str) -> Path | None:
        """Return the file of a sample; without a file, add the id to ``missing`` and return None.

        Args:
            sample_id: id of the sample.
        """
        stem = sample_id.replace("/", "__")
        for suffix in self.suffixes:
            path = self.folder / f"{stem}{suffix}"
            if path.is_file():
                self.used.add(path)
                return path
        self.missing.append(sample_id)
        return None

    def numbers(self, sample_id: str, channels: int, noun: str) -> Tensor:
        """Return the values of an NPY file as float32, ``channels h w``.

        Args:
            sample_id: id of the sample.
            channels: required number of channels.
            noun: name of the prediction in messages.

        Raises:
            InputError: if there is no file, or it has another shape, NaN or infinity.
        """
        path = self.find(sample_id)
        if path is None:
            name = self.folder / f"{sample_id.replace('/', '__')}.npy"
            raise InputError(f"{name}: no such file: write the prediction of every sample")
        values = read_array(path)
        if values.ndim == 2:
            values = values[None]
        if values.ndim != 3 or len(values) != channels or values.size == 0:
            raise InputError(
                f"{path}: {values.dtype} of {' x '.join(map(str, values.shape))}, but a "
                f"prediction of {noun} is {channels} channel(s) x height x width"
            )
        if not np.isfinite(values).all():
            raise InputError(f"{path}: has NaN or infinity: predict a number for every pixel")
        return torch.from_numpy(values.astype(np.float32))

    def require_all(self, count: int) -> None:
        """Check that no sample was without a file.

        Args:
            count: number of samples.

        Raises:
            InputError: if files are missing; the message has the ids of the first samples.
        """
        if self.missing:
            raise InputError(
                f"{self.folder}: no prediction for {len(self.missing)} of {count} samples: "
                f"{_list_first(self.missing)}: write each as ID{' or ID'.join(self.suffixes)}"
            )

    def describe_unused(self) -> str:
        """Return one line about the files that belong to no sample; empty if there are none."""
        paths = sorted(path for path in self.folder.iterdir() if path.suffix in self.suffixes)
        names = [path.name for path in paths if path not in self.used]
        return f"{len(names)} files belong to no sample: {_list_first(names)}" if names else ""


class AbstractStored(abc.ABC):
    """Base class of stored predictions for one data set.

    Attributes:
        path: folder or file of the predictions.
        task: task of the predictions.
    """

    path: Path
    task: AbstractTask

    @abc.abstractmethod
    def prediction(
        self, sample_id: str, hw: tuple[int, int], unit: str | None
    ) -> Prediction | None:
        """Return the prediction of a sample; None if it is missing, see ``require_all``.

        Args:
            sample_id: id of the sample.
            hw: height and width of its label in pixels.
            unit: unit of one count of depth in PNG files.

        Raises:
            InputError: if the prediction cannot be read, or does not fit the task or the label.
        """

    @abc.abstractmethod
    def require_all(self, count: int) -> None:
        """Check that no prediction is missing, after all samples were requested.

        Args:
            count: number of samples.

        Raises:
            InputError: if predictions are missing.
        """

    @abc.abstractmethod
    def describe_unused(self) -> str:
        """Return one line about predictions that belong to no sample; empty if there are none."""


class StoredMaps(AbstractStored):
    """A folder with a predicted label map for every sample.

    Args:
        folder: folder of the files.
        task: task of the predictions.
        read: function that returns a label map. It gets the file, the unit of depth in PNG files,
            and the number of classes.

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
        """Check that no sample was without a file."""
        self._files.require_all(count)

    def describe_unused(self) -> str:
        """Return one line about the files that belong to no sample; empty if there are none."""
        return self._files.describe_unused()


class StoredPoses(AbstractStored):
    """A JSON file with COCO's 17 predicted joints of all people, in the format of COCO's results.

    Args:
        path: JSON list of ``image_id``, ``keypoints`` and ``score``.

    Raises:
        InputError: if the file is not such a list.
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
                f"{path}: not a file of joints ({type(error).__name__}: {error}): give a JSON list "
                "of image_id, keypoints and score"
            ) from None

    def prediction(self, sample_id: str, hw: tuple[int, int], unit: str | None) -> PosePrediction:
        """Return the people of an image; no people if the file does not name the image."""
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
        """Check that at least one sample has joints; an image without people has none."""
        if not self._rows.keys() & self._used:
            raise InputError(
                f"{self.path}: {self._describe_others()}: give the results for the images of the "
                "data set"
            )

    def describe_unused(self) -> str:
        """Return one line about images that are not in the data set; empty if there are none."""
        return self._describe_others() if self._rows.keys() - self._used else ""

    def _describe_others(self) -> str:
        others = [name for name in self._rows if name not in self._used]
        return f"{len(others)} images are not in the data set: {_list_first(others)}"


def open_stored(path: Path, protocol: AbstractProtocol, dataset: AbstractDataset) -> AbstractStored:
    """Return stored predictions of the kind that a protocol scores.

    Args:
        path: folder of label maps, or for joints a JSON file in the format of COCO's results.
        protocol: protocol that scores the predictions.
        dataset: data set of the predictions.

    Raises:
        InputError: if predictions of this kind cannot be read from files, or cannot be used.
    """
    if protocol.kind not in READERS:
        raise InputError(
            f"{protocol.name} scores {protocol.scores}, which cannot be read from files: choose "
            "another protocol"
        )
    return READERS[protocol.kind](path, dataset)


def _make_segmentation(dataset: AbstractDataset) -> AbstractTask:
    """Return a segmentation task with the classes of a data set."""
    names = next(iter(dataset.class_names.values()), None)
    if not names:
        raise InputError(f"data set {dataset.name!r} has no classes: choose another protocol")
    (label,) = (key for key, value in dataset.class_names.items() if value is names)
    return Segmentation(names, label=label)


def _read_depth(path: Path, unit: str | None, classes: int) -> Tensor:
    """Return depth in metres, ``1 h w``, from an NPY file in metres or a PNG file in counts."""
    if path.suffix == ".png":
        if unit is None:
            raise InputError(f"{path}: give the unit of one count with --unit, such as mm or m/256")
        return read_depth(path, unit)[0][None]
    values = read_array(path)
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    if values.ndim != 2:
        raise InputError(
            f"{path}: array of shape {values.shape}: write depth in metres as (height, width)"
        )
    return torch.from_numpy(values.astype(np.float32))[None]


def _read_ids(path: Path, unit: str | None, classes: int) -> Tensor:
    """Return class ids from 0 on, ``h w``."""
    _refuse_unit(unit)
    ids = read_label(path, IDS).value[0].long()
    highest, lowest = int(ids.max()), int(ids.min())
    if lowest < 0 or highest >= classes:
        wrong = lowest if lowest < 0 else highest
        raise InputError(
            f"{path}: class {wrong}, but the classes are 0 to {classes - 1}: predict one of them "
            "at every pixel"
        )
    return ids


def _read_mask(path: Path, unit: str | None, classes: int) -> Tensor:
    """Return a mask ``h w`` with 1 where the file is not 0."""
    _refuse_unit(unit)
    return (read_label(path, IDS).value[0] > 0).long()


def _refuse_unit(unit: str | None) -> None:
    if unit is not None:
        raise InputError("--unit is for depth in PNG files: leave it out")


def _list_first(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")


READERS: Mapping[str, Callable[[Path, AbstractDataset], AbstractStored]] = {
    "depth": lambda path, dataset: StoredMaps(path, Depth(), _read_depth),
    "classes": lambda path, dataset: StoredMaps(path, _make_segmentation(dataset), _read_ids),
    "mask": lambda path, dataset: StoredMaps(path, Referring(), _read_mask),
    "pose": lambda path, dataset: StoredPoses(path),
}
