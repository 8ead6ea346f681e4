"""ADE20K with the 150 classes of scene parsing (Zhou et al. 2017), and the full set."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.files import list_files, read_image
from diffsight.datasets.labels import LabelFormat, read_label
from diffsight.datasets.pairs import match_names, require_one_size
from diffsight.errors import InputError
from diffsight.label_maps import ADE20K_CLASSES, ADE20K_FULL


class ADE20K(AbstractDataset):
    """Images and classes of ``ADEChallengeData2016``: 20,210 for training, 2,000 for validation.

    ``root`` holds ``images`` and ``annotations``, each with ``training`` and ``validation``. An
    annotation is an 8-bit PNG: 0 is anything else and not scored, ``v`` is class ``v - 1``.

    Args:
        root: folder of the data set.
        split: which half.

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
            InputError: if a file cannot be used, the two differ in size, or an id is unknown.
        """
        path, annotation = self.pairs[index]
        image = read_image(path)
        label = read_label(annotation, LabelFormat("segmentation", invalid=0))
        ids = label.value[0].long() - 1
        require_one_size(annotation, ids, path, image)
        largest = int(ids[label.valid].max()) if label.valid.any() else 0
        if largest >= len(ADE20K_CLASSES):
            raise InputError(
                f"{annotation}: class {largest + 1} of {len(ADE20K_CLASSES)}: take the annotations "
                "of the scene parsing challenge (the full set is ADE20KFull)"
            )
        ids = torch.where(label.valid, ids, 0)
        return Sample(path.stem, image, {"semantic": ids}, {"semantic": label.valid})


class ADE20KFull(AbstractDataset):
    """Images of the full data set, in the challenge's 150 classes.

    ``root/images/ADE`` (release of 2021: 25,574 and 2,000 images) or ``root/images`` (2016: 20,210
    and 2,000) holds ``training`` and ``validation``, images in folders of scene types. Beside
    ``X.jpg`` lies ``X_seg.png``, whose red and green channels are the class (``red // 10 * 256 +
    green``, 0 is nothing). Classes outside the 150 are not scored. Images have their full size; the
    challenge's were made smaller.

    Args:
        root: folder of the data set.
        split: which half.

    Raises:
        InputError: if a folder is missing or has no image, or a file has no partner.
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
            raise InputError(f"{folder}: no such folder; root is the one that holds images")
        self.images = sorted(
            (path for path in list_files(folder) if path.match("ADE_*.jpg")),
            key=lambda path: path.name,
        )
        if not self.images:
            raise InputError(f"{folder}: no ADE_*.jpg in any of its folders; check the path")
        for image in self.images:
            if not _segments(image).is_file():
                raise InputError(
                    f"{image}: {_segments(image).name} is not in its folder; unpack again"
                )

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``, with label ``semantic`` (``h w``, ids from 0).

        Raises:
            InputError: if a file cannot be used, or the two differ in size.
        """
        path = self.images[index]
        segments = _segments(path)
        image, coded = read_image(path), read_image(segments).long()
        ids = _CLASS_OF[coded[0] // 10 * 256 + coded[1]]
        require_one_size(segments, ids, path, image)
        valid = ids >= 0
        return Sample(path.stem, image, {"semantic": ids.clamp(min=0)}, {"semantic": valid})


# by number in the full set, as many as red and green can say; -1 is none of the 150
_CLASS_OF = torch.full((26 * 256,), -1)
for _index, _numbers in enumerate(ADE20K_FULL):
    _CLASS_OF[list(_numbers)] = _index


def _segments(image: Path) -> Path:
    return image.with_name(f"{image.stem}_seg.png")
