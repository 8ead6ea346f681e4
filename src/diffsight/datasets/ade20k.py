"""ADE20K (Zhou et al. 2017): the scene parsing challenge with 150 classes, and the full set."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.files import list_files, read_image
from diffsight.datasets.labels import LabelFormat, read_label
from diffsight.datasets.pairs import match_names, require_same_size
from diffsight.errors import InputError
from diffsight.label_maps import ADE20K_CLASSES, ADE20K_FULL


class ADE20K(AbstractDataset):
    """Images and class maps of ``ADEChallengeData2016``: 20,210 for training, 2,000 for validation.

    ``root`` contains ``images`` and ``annotations``, each with ``training`` and ``validation``. An
    annotation is an 8-bit PNG, in which the value ``v`` means class ``v - 1``. Pixels with the
    value 0 belong to none of the classes and are not scored.

    Args:
        root: folder of the data set.
        split: ``training`` or ``validation``.

    Raises:
        InputError: if a folder is missing or empty, or a file has no partner.
    """

    class_names: Mapping[str, tuple[str, ...]] = {"semantic": ADE20K_CLASSES}

    def __init__(
        self, *, root: str | Path, split: Literal["training", "validation"] = "training"
    ) -> None:
        self.name = f"ade20k-{split}"
        self.root = Path(root)
        images, labels = (self.root / part / split for part in ("images", "annotations"))
        self.pairs = match_names(images, labels, frozenset({".png"}), "annotation")

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``, with label ``semantic`` (``h w``, ids from 0).

        Raises:
            InputError: if a file cannot be read, the image and its annotation differ in size, or
                the annotation contains an id above 150.
        """
        path, annotation = self.pairs[index]
        image = read_image(path)
        label = read_label(annotation, LabelFormat("segmentation", invalid=-1))
        ids = label.value[0].long() - 1
        require_same_size(annotation, ids, path, image)
        largest = int(ids.max())
        if largest >= len(ADE20K_CLASSES):
            raise InputError(
                f"{annotation}: class id {largest + 1} is above {len(ADE20K_CLASSES)}: use the "
                "annotations of the scene parsing challenge, or ADE20KFull for the full set"
            )
        valid = ids >= 0
        return Sample(path.stem, image, {"semantic": ids.clamp(min=0)}, {"semantic": valid})


class ADE20KFull(AbstractDataset):
    """Images of the full data set, labelled with the 150 classes of the challenge.

    The folders ``training`` and ``validation`` are in ``root/images/ADE`` (release of 2021: 25,574
    and 2,000 images) or in ``root/images`` (release of 2016: 20,210 and 2,000 images). They contain
    one folder per scene type. The label of ``X.jpg`` is ``X_seg.png`` in the same folder. Its red
    and green channels encode the class number as ``red // 10 * 256 + green``; 0 means no class.
    Pixels of other classes than these 150 are not scored. Images have their original size, whereas
    the challenge scaled them down.

    Args:
        root: folder of the data set.
        split: ``training`` or ``validation``.

    Raises:
        InputError: if a folder is missing or has no image, or an image has no label.
    """

    class_names: Mapping[str, tuple[str, ...]] = ADE20K.class_names

    def __init__(
        self, *, root: str | Path, split: Literal["training", "validation"] = "training"
    ) -> None:
        self.name = f"ade20k-full-{split}"
        self.root = Path(root)
        images = self.root / "images"
        folder = (images / "ADE" if (images / "ADE").is_dir() else images) / split
        if not folder.is_dir():
            raise InputError(
                f"{folder}: no such folder; root must be the folder that contains images"
            )
        self.images = sorted(
            (path for path in list_files(folder) if path.match("ADE_*.jpg")),
            key=lambda path: path.name,
        )
        if not self.images:
            raise InputError(f"{folder}: no file ADE_*.jpg in this folder or below; check the path")
        for image in self.images:
            if not _segments_path(image).is_file():
                raise InputError(
                    f"{image}: its label {_segments_path(image).name} is missing; unpack the "
                    "archive again"
                )

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``, with label ``semantic`` (``h w``, ids from 0).

        Raises:
            InputError: if a file cannot be read, or the image and its label differ in size.
        """
        path = self.images[index]
        segments = _segments_path(path)
        image, encoded = read_image(path), read_image(segments).long()
        ids = _NUMBER_TO_ID[encoded[0] // 10 * 256 + encoded[1]]
        require_same_size(segments, ids, path, image)
        valid = ids >= 0
        return Sample(path.stem, image, {"semantic": ids.clamp(min=0)}, {"semantic": valid})


# class id for every class number that red and green can encode; -1 is none of the 150 classes
_NUMBER_TO_ID = torch.full((26 * 256,), -1)
for _index, _numbers in enumerate(ADE20K_FULL):
    _NUMBER_TO_ID[list(_numbers)] = _index


def _segments_path(image: Path) -> Path:
    """Return the path of an image's label file."""
    return image.with_name(f"{image.stem}_seg.png")
