"""NYU Depth v2 as the few-shot benchmark uses it: depth, and normals that others computed."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from diffsight.datasets.files import read_image
from diffsight.datasets.labels import LabelFormat, read_label
from diffsight.datasets.nyu import NYUDepth
from diffsight.datasets.pairs import Pair, file_finder, read_pair
from diffsight.datasets.source import AbstractSource, Labelled, SourceTask
from diffsight.errors import InputError

DEPTH = SourceTask("nyu_depth", kind="depth", scoring="depth", bins=50, unit="m")
NORMAL = SourceTask("nyu_normal", kind="normals", scoring="angles", bins=50)
MIN_DEPTH_M, MAX_DEPTH_M = 1e-3, 10.0
SIZE_HW = (480, 640)
# Eigen's crop: the border of the Kinect's maps is empty or badly aligned
CROP_ROWS, CROP_COLUMNS = slice(45, 471), slice(41, 601)
_FOLDERS = {"train": "sync", "test": "official_splits/test"}


class NYUFewShot(AbstractSource):
    """Supports from the training images, queries from the official test set; 480 x 640 pixels.

    * ``nyu_depth``: z-depth in metres; learned where 1e-3 m < depth < 10 m, scored there inside
      Eigen's crop (rows 45 to 470, columns 41 to 600).
    * ``nyu_normal``, if a folder of normals is given: unit vectors, x right, y down, z forward,
      learned and scored where the files have a direction. NYU comes without normals, and those that
      papers use differ from one another: call the folder after its origin, which thus becomes a
      part of ``name``.

    Args:
        root: folder of the data set, as ``NYUDepth`` reads it.
        normals: folder with the sub-folders of ``root``; a file is called as its image, with the
            suffix ``.png`` (v / 127.5 - 1) or ``.npy`` (height, width, 3). Images without normals
            are left out of ``nyu_normal``.
        train_list: list of the training samples as ``NYUDepth`` reads it; None takes all.
        test_list: list of the test samples; None takes all.

    Attributes:
        name: of the data set, with the numbers of its images.
        tasks: one or two.
        skipped: by id, why a sample cannot be used.

    Raises:
        InputError: if files of the data set are missing, or there are no normals for training or
            for testing.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        normals: str | Path | None = None,
        train_list: str | Path | None = None,
        test_list: str | Path | None = None,
    ) -> None:
        train = NYUDepth(root=root, split="train", list_file=train_list)
        test = NYUDepth(root=root, split="test", list_file=test_list)
        self._pairs = {f"train/{pair.id}": pair for pair in train.pairs}
        self._pairs |= {f"test/{pair.id}": pair for pair in test.pairs}
        self.name = f"nyu {len(train)} + {len(test)}"
        self.tasks = {DEPTH.name: DEPTH}
        self.skipped = {}
        self._normals: dict[str, Path] = {}
        if normals is not None:
            self._normals = _find_normals(Path(normals), self._pairs)
            self.tasks[NORMAL.name] = NORMAL
            counts = " + ".join(str(len(self._ids(NORMAL.name, split))) for split in _FOLDERS)
            self.name += f", normals {Path(normals).resolve().name} {counts}"

    def pool(self, task: str) -> Sequence[str]:
        """Ids of the training images that have the task's label, by name."""
        return self._ids(task, "train")

    def queries(self, task: str) -> Sequence[str]:
        """Ids of the test images that have the task's label, by name."""
        return self._ids(task, "test")

    def read(self, task: str, id: str) -> Labelled | None:
        """One image with its label; None, and a note in ``skipped``, if a file cannot be used."""
        try:
            return self._depth(id) if task == DEPTH.name else self._normal(id)
        except InputError as error:
            self.skipped[id] = str(error)
            return None

    def _ids(self, task: str, split: str) -> list[str]:
        labelled = self._pairs if task == DEPTH.name else self._normals
        return sorted(id for id in labelled if id.startswith(f"{split}/"))

    def _depth(self, id: str) -> Labelled:
        pair = self._pairs[id]
        sample = read_pair(pair)
        _require_size(pair, sample.image)
        depth_m = sample.labels["depth_m"]
        valid = sample.valid["depth_m"] & (depth_m[0] > MIN_DEPTH_M) & (depth_m[0] < MAX_DEPTH_M)
        if not valid.any():
            raise InputError(
                f"{pair.depth}: no depth between {MIN_DEPTH_M:g} and {MAX_DEPTH_M:g} m; NYU's maps "
                "are 16-bit PNG of millimetres, leave this file out if it is another"
            )
        return Labelled(id, sample.image, depth_m, valid, depth_m, inside_crop(valid))

    def _normal(self, id: str) -> Labelled:
        pair, path = self._pairs[id], self._normals[id]
        image = read_image(pair.image)
        _require_size(pair, image)
        label = read_label(path, LabelFormat("normals"))
        if label.valid.shape != SIZE_HW:
            height, width = label.valid.shape
            raise InputError(
                f"{path}: normals of {width} x {height} pixels; those of NYU have 640 x 480, "
                "compute or export them at that size"
            )
        return Labelled(id, image, label.value, label.valid)


def inside_crop(valid: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """What is valid inside Eigen's crop of a map of 480 x 640 pixels."""
    inside = torch.zeros_like(valid)
    inside[CROP_ROWS, CROP_COLUMNS] = valid[CROP_ROWS, CROP_COLUMNS]
    return inside


def _require_size(pair: Pair, image: UInt8[Tensor, "3 h w"]) -> None:
    if image.shape[-2:] != SIZE_HW:
        height, width = image.shape[-2:]
        raise InputError(
            f"{pair.image}: {width} x {height} pixels; images of NYU have 640 x 480, on which its "
            "crop is defined: use the files as they are published"
        )


def _find_normals(folder: Path, ids: Iterable[str]) -> dict[str, Path]:
    """The files of the samples that have one, by id."""
    exists = file_finder()
    found: dict[str, Path] = {}
    for id in ids:
        split, _, inner = id.partition("/")
        for suffix in (".png", ".npy"):  # of two files the one without rounding
            path = folder / _FOLDERS[split] / f"{inner}{suffix}"
            if exists(path):
                found[id] = path
    for split, inner in _FOLDERS.items():
        if not any(id.startswith(f"{split}/") for id in found):
            raise InputError(
                f"{folder / inner}: holds no normals of the {split} images; put PNG or NPY files "
                "there, in the sub-folders and with the names of the images"
            )
    return found
