"""Cityscapes (Cordts et al. 2016), and Mapillary Vistas with the classes of Cityscapes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.files import list_files, read_image
from diffsight.datasets.labels import LabelFormat, read_label
from diffsight.datasets.pairs import match_names, require_same_size
from diffsight.errors import InputError
from diffsight.label_maps import (
    CITYSCAPES_CLASSES,
    CITYSCAPES_IDS,
    MAPILLARY_TO_CITYSCAPES,
)

Pairs = Sequence[tuple[Path, Path]]
IMAGE = "_leftImg8bit.png"
UNSCORED = 255  # value of pixels without a class in labelTrainIds
VOID = 65  # largest of the 66 label values of Mapillary Vistas v1.2: pixels without a class


class Cityscapes(AbstractDataset):
    """Street images in 19 classes: 2,975 images for training, 500 for validation.

    ``root`` contains ``leftImg8bit/SPLIT/CITY`` and ``gtFine/SPLIT/CITY``. With ``automatic=True``
    the 20,000 images of the split ``train_extra`` are read instead. A network predicted their
    labels, which are in ``convert_autolabelled/CITY``.

    Args:
        root: folder of the data set.
        split: ``train`` or ``val``; ignored with ``automatic=True``.
        labels: kind of label files to read; both kinds have the same content.
        automatic: read ``train_extra`` with its automatic labels, which store ``labelTrainIds``.

    Raises:
        InputError: if a folder is missing or empty, or an image has no label.
    """

    class_names: Mapping[str, tuple[str, ...]] = {"semantic": CITYSCAPES_CLASSES}

    def __init__(
        self,
        *,
        root: str | Path,
        split: Literal["train", "val"] = "train",
        labels: Literal["labelIds", "labelTrainIds"] = "labelIds",
        automatic: bool = False,
    ) -> None:
        self.name = "cityscapes-extra" if automatic else f"cityscapes-{split}"
        self.root = Path(root)
        images = self.root / "leftImg8bit" / ("train_extra" if automatic else split)
        truth = self.root / ("convert_autolabelled" if automatic else f"gtFine/{split}")
        self.uses_train_ids = automatic or labels == "labelTrainIds"
        self.pairs = _pairs(images, truth, "" if automatic else f"_gtFine_{labels}")

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``, with label ``semantic`` (``h w``, ids from 0).

        Raises:
            InputError: if a file cannot be read, the image and its label differ in size, or the
                label contains an unknown value.
        """
        path, truth = self.pairs[index]
        table = _TRAIN_IDS if self.uses_train_ids else _LABEL_IDS
        kind = "labelTrainIds" if self.uses_train_ids else "labelIds"
        return _read_sample(path.name.removesuffix(IMAGE), path, truth, table, kind)


class MapillaryVistas(AbstractDataset):
    """Street images from many countries in the classes of Cityscapes (version 1.2).

    The data set is used for pretraining. ``root/SPLIT`` contains ``images`` and ``labels``: 18,000
    images for training, 2,000 for validation. 41 of the 66 classes have no counterpart in
    Cityscapes and are not scored.

    Args:
        root: folder of the data set.
        split: ``training`` or ``validation``.

    Raises:
        InputError: if a folder is missing or empty, or a file has no partner.
    """

    class_names: Mapping[str, tuple[str, ...]] = Cityscapes.class_names

    def __init__(
        self, *, root: str | Path, split: Literal["training", "validation"] = "training"
    ) -> None:
        self.name = f"mapillary-{split}"
        self.root = Path(root)
        images, labels = (self.root / split / part for part in ("images", "labels"))
        self.pairs = match_names(images, labels, frozenset({".png"}), "label")

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``, with label ``semantic`` (``h w``, ids from 0).

        Raises:
            InputError: if a file cannot be read, the image and its label differ in size, or the
                label contains an unknown value.
        """
        path, truth = self.pairs[index]
        return _read_sample(path.stem, path, truth, _MAPILLARY, "version 1.2")


def _read_sample(name: str, path: Path, truth: Path, table: Tensor, kind: str) -> Sample:
    """Return the image with its class map.

    Args:
        name: id of the sample.
        path: file of the image.
        truth: file of the label.
        table: class id for every stored value; -1 means no class, -2 an unknown value.
        kind: kind of the label files, for messages.

    Raises:
        InputError: if a file cannot be read, image and label differ in size, or a value is unknown.
    """
    image = read_image(path)
    label = read_label(truth, LabelFormat("segmentation", invalid=-1))
    numbers = label.value[0].long()
    require_same_size(truth, numbers, path, image)
    ids = table[numbers.clamp(0, len(table) - 1)]
    unknown = numbers[(ids == -2) | (numbers >= len(table))]
    if len(unknown):
        raise InputError(
            f"{truth}: the value {int(unknown[0])} does not occur in label files of {kind}: choose "
            "other label files"
        )
    valid = ids >= 0
    return Sample(name, image, {"semantic": ids.clamp(min=0)}, {"semantic": valid})


def _pairs(images: Path, truth: Path, suffix: str) -> Pairs:
    """Return the image and label files of all cities, sorted by the image's name.

    Args:
        images: folder with a folder of images for every city.
        truth: folder with a folder of labels for every city.
        suffix: text that replaces ``_leftImg8bit`` in the names of labels; empty keeps the name.

    Raises:
        InputError: if a folder is missing or empty, or an image has no label.
    """
    for folder in (images, truth):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder: root must contain leftImg8bit and gtFine")
    paths = [path for path in list_files(images) if path.name.endswith(IMAGE)]
    if not paths:
        raise InputError(f"{images}: no file *{IMAGE} in the city folders: check the path")
    pairs = []
    for path in sorted(paths, key=lambda path: path.name):
        name = path.name.removesuffix(IMAGE) + suffix if suffix else path.stem
        label = truth / path.parent.name / f"{name}.png"
        if not label.is_file():
            raise InputError(f"{path}: its label {label} is missing: unpack the labels again")
        pairs.append((path, label))
    return pairs


def _make_table(size: int, classes: Mapping[int, int], unscored: Sequence[int]) -> Tensor:
    """Return the class id for every stored value; -1 means no class, -2 an unknown value."""
    table = torch.full((size,), -2)
    table[list(unscored)] = -1
    table[list(classes)] = torch.tensor(list(classes.values()))
    return table


_LABEL_IDS = _make_table(34, {n: i for i, n in enumerate(CITYSCAPES_IDS)}, range(34))
_TRAIN_IDS = _make_table(256, {i: i for i in range(len(CITYSCAPES_IDS))}, (UNSCORED,))
_MAPILLARY = _make_table(
    VOID + 1,
    {n: i for i, numbers in enumerate(MAPILLARY_TO_CITYSCAPES) for n in numbers},
    range(VOID + 1),
)
