"""ADE20K, scene parsing with 150 classes (SceneParse150, Zhou et al. 2017)."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.files import read_image
from diffsight.datasets.labels import LabelFormat, read_label
from diffsight.datasets.pairs import match_names
from diffsight.label_maps import ADE20K_CLASSES
from diffsight.types import InputError


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

    class_names: Mapping[str, tuple[str, ...]] = MappingProxyType({"semantic": ADE20K_CLASSES})

    def __init__(
        self, *, root: str | Path, split: Literal["training", "validation"] = "training"
    ) -> None:
        self.name = f"ade20k-{split}"
        self.root = Path(root)
        images, labels = (self.root / part / split for part in ("images", "annotations"))
        self.pairs = match_names(images, labels, frozenset({".png"}), "annotation")

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """The sample at ``index``, with label ``semantic`` (``h w``, ids from 0).

        Raises:
            InputError: if a file cannot be used, the two differ in size, or an id is unknown.
        """
        path, annotation = self.pairs[index]
        image = read_image(path)
        label = read_label(annotation, LabelFormat("segmentation", invalid=0))
        ids = label.value[0].long() - 1
        if ids.shape != image.shape[-2:]:
            raise InputError(
                f"{annotation}: {ids.shape[1]} x {ids.shape[0]} pixels for an image ({path}) of "
                f"{image.shape[2]} x {image.shape[1]}: give both the same size"
            )
        largest = int(ids[label.valid].max()) if label.valid.any() else 0
        if largest >= len(ADE20K_CLASSES):
            raise InputError(
                f"{annotation}: class {largest + 1} of {len(ADE20K_CLASSES)}: take the annotations "
                "of the scene parsing challenge, not of the full set"
            )
        ids = torch.where(label.valid, ids, 0)
        return Sample(path.stem, image, {"semantic": ids}, {"semantic": label.valid})
