"""A user's own images and class labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.files import read_image
from diffsight.datasets.labels import LABEL_SUFFIXES, LabelFormat, read_label
from diffsight.datasets.pairs import match_names, one_side, require_one_size
from diffsight.datasets.transforms import resize
from diffsight.errors import InputError
from diffsight.ops.resize import working_hw

NOTHING = -1  # as a stored value: no label, as NaN is
LISTED = 5
COLOUR = 256  # values from here on are colours


class ClassFolder(AbstractDataset):
    """Pairs of an image and a map of classes, matched and split as in ``Folder``.

    Label ``semantic`` is ``h w`` of int64: ids from 0 in the order of ``classes``.

    Args:
        root: folder that the other paths are relative to.
        classes: what is stored for each class, by its name: one value or several. The value of a
            colour is its 24-bit number (``0xff8000`` is red 255, green 128).
        images: folder of the images.
        labels: folder of the labels: PNG, TIFF, PGM or NPY of values, a palette's indices, or a
            colour per class.
        ignored: values that are no class; NaN and -1 never are.
        split: ``train``, ``val`` or ``all``.
        val_fraction: expected fraction of ``val``.
        short_side: of every sample in pixels, the shape stays; None leaves it as it is.

    Raises:
        InputError: if a folder is missing or empty, a file has no partner, there is no class, or a
            value stands for two.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        classes: Mapping[str, int | Sequence[int]],
        images: str = "images",
        labels: str = "labels",
        ignored: Sequence[int] = (),
        split: Literal["train", "val", "all"] = "all",
        val_fraction: float = 0.1,
        short_side: int | None = None,
    ) -> None:
        if not classes:
            raise InputError("classes: none given: name what is stored for each")
        root = Path(root)
        self.name = root.resolve().name
        self.class_names = {"semantic": tuple(classes)}
        self._values, self._ids = _lookup(classes, ignored)
        pairs = match_names(root / images, root / labels, LABEL_SUFFIXES, "label")
        side = one_side([image for image, _ in pairs], split, val_fraction, root)
        self.pairs = [pairs[index] for index in side]
        self.short_side = short_side
        self._images = root / images

    def __len__(self) -> int:
        """Return the number of samples of the split."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``.

        Raises:
            InputError: if a file cannot be used, the two differ in size, or a value has no class.
        """
        path, file = self.pairs[index]
        image = read_image(path)
        label = read_label(file, LabelFormat("segmentation", invalid=NOTHING))
        stored = label.value[0].long()
        require_one_size(file, stored, path, image)
        position = torch.searchsorted(self._values, stored).clamp(max=len(self._values) - 1)
        unknown = stored[label.valid & (self._values[position] != stored)]
        if len(unknown):
            values, counts = unknown.unique(return_counts=True)
            some = zip(values[:LISTED].tolist(), counts.tolist(), strict=False)
            listed = ", ".join(f"{_written(value)} ({count} pixels)" for value, count in some)
            more = ", ..." if len(values) > LISTED else ""
            raise InputError(
                f"{file}: {len(values)} value(s) of no class: {listed}{more}: add them to classes, "
                "or to ignored"
            )
        ids = self._ids[position]
        name = path.relative_to(self._images).with_suffix("").as_posix()
        valid = label.valid & (ids >= 0)
        sample = Sample(name, image, {"semantic": torch.where(valid, ids, 0)}, {"semantic": valid})
        if self.short_side is None:
            return sample
        height, width = image.shape[-2:]
        return resize(sample, *working_hw(height, width, self.short_side))


def _written(value: int) -> str:
    """Return colours as RGB triples, other values as they are."""
    return str(value) if value < COLOUR else f"{value:#08x}"


def _lookup(
    classes: Mapping[str, int | Sequence[int]], ignored: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return stored values in rising order, and the id of each, -1 for those that are ignored."""
    ids = dict.fromkeys(ignored, -1)
    for id, (name, values) in enumerate(classes.items()):
        for value in (values,) if isinstance(values, int) else values:
            if value in ids:
                other = "ignored" if ids[value] < 0 else f"{list(classes)[ids[value]]!r}"
                raise InputError(f"value {value} is both {other} and {name!r}: choose one")
            ids[value] = id
    stored = sorted(ids)
    return torch.tensor(stored), torch.tensor([ids[value] for value in stored])
