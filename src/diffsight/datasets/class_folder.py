"""A data set of the user's own images and class maps."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.class_ids import (
    find_palette_conflict,
    format_colour,
    replace_indices_by_colours,
    snap,
)
from diffsight.datasets.class_lists import ClassList, read_class_list
from diffsight.datasets.files import read_image
from diffsight.datasets.find_labels import find_labels
from diffsight.datasets.labels import Colour, Label, LabelFormat
from diffsight.datasets.pairs import require_same_size, select_split
from diffsight.datasets.transforms import resize
from diffsight.errors import InputError
from diffsight.ops.resize import working_hw
from diffsight.types import Boxes

NO_LABEL = -1  # stored value that always means "no label", like NaN; also its class id
MAX_LISTED = 5  # unknown values in an error message
FIRST_COLOUR = 256  # values from here on can only be colours
Value = int | str


class ClassFolder(AbstractDataset):
    """Pairs of an image and a class map, matched and split as in ``Folder``.

    Label ``semantic`` is ``h w`` of int64: class ids from 0 in the order of ``classes``.

    Args:
        root: folder that the other paths are relative to.
        classes: stored value or values of each class by its name. A value is a class id, or a
            colour as ``"#ff8000"`` or as its 24-bit number. A text is the path of a file that
            ``read_class_list`` reads; labels that name their classes (COCO, labelme) are matched
            with it by name. None takes the class names from the labels.
        images: folder of the images.
        labels: folder or file that ``find_labels`` reads: polygons, or PNG, TIFF or NPY files of
            class ids, palette indices or class colours. If ``classes`` are colours, palette indices
            are replaced by their colours.
        ignored: stored values of pixels without a label; NaN and -1 are always ignored.
        snap: replace every other value by the nearest class value, for smoothed or compressed
            masks.
        split: ``train``, ``val`` or ``all``.
        val_fraction: expected fraction of samples in ``val``, between 0 and 1.
        short_side: length of the shorter side in pixels to which every sample is scaled, with its
            aspect ratio kept; None keeps the size.

    Raises:
        InputError: if a folder is missing or empty, a file has no partner, there are no classes, or
            two classes have the same value.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        classes: Mapping[str, Value | Sequence[Value]] | str | None,
        images: str = "images",
        labels: str = "labels",
        ignored: Sequence[Value] = (),
        snap: bool = False,
        split: Literal["train", "val", "all"] = "all",
        val_fraction: float = 0.1,
        short_side: int | None = None,
    ) -> None:
        root = Path(root)
        labelled = find_labels(root / images, root / labels, "segmentation")
        source = labelled.source
        if isinstance(classes, str):
            class_list = read_class_list(root / classes)
            source, classes = source.renumber(class_list), _by_name(class_list)
        elif classes is None and source.classes is not None:
            classes = _by_name(source.classes)
        if not classes:
            raise InputError("classes is empty: give the stored value of each class by its name")
        self.name = root.resolve().name
        self.class_names = {"semantic": tuple(classes)}
        self._values, self._ids = _make_table(classes, ignored)
        self._source, self._snap = source, snap
        # colour of each palette index in the files read so far, with the first of these files
        self._palettes: dict[int, tuple[Colour, Path | str]] = {}
        indices = select_split([image for image, _ in labelled.pairs], split, val_fraction, root)
        self.pairs = [labelled.pairs[index] for index in indices]
        self.short_side = short_side
        self._images = root / images

    def __len__(self) -> int:
        """Return the number of samples of the split."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``.

        Raises:
            InputError: if a file cannot be read, the image and its label differ in size, or a
                stored value has no class.
        """
        path, label_name = self.pairs[index]
        image, file = read_image(path), self._source.file(label_name)
        form = LabelFormat("segmentation", invalid=NO_LABEL, snap=self._snap)
        hw = image.shape[-2], image.shape[-1]
        label = self._match_class_values(file, self._source.read(label_name, form, hw))
        stored = label.class_ids
        require_same_size(file, stored, path, image)
        position = torch.searchsorted(self._values, stored).clamp(max=len(self._values) - 1)
        unknown = stored[label.valid & (self._values[position] != stored)]
        if len(unknown):
            values, counts = unknown.unique(return_counts=True)
            first = zip(values[:MAX_LISTED].tolist(), counts.tolist(), strict=False)
            format_value = format_colour if label.coloured else str
            listed = ", ".join(f"{format_value(value)} ({count} pixels)" for value, count in first)
            more = ", ..." if len(values) > MAX_LISTED else ""
            raise InputError(
                f"{file}: {len(values)} value(s) without a class: {listed}{more}: add them to "
                "classes or to ignored"
            )
        ids = self._ids[position]
        name = path.relative_to(self._images).with_suffix("").as_posix()
        valid = label.valid & (ids >= 0)
        maps = {"semantic": torch.where(valid, ids, 0)}, {"semantic": valid}
        sample = Sample(name, image, *maps, boxes=label.boxes and self._renumber(label.boxes))
        if self.short_side is None:
            return sample
        height, width = image.shape[-2:]
        return resize(sample, *working_hw(height, width, self.short_side))

    def _renumber(self, boxes: Boxes) -> Boxes:
        """Return boxes with class ids from 0 instead of stored values.

        Raises:
            InputError: if the value of a box, or of the background around it, has no class.
        """
        ids = dict(zip(self._values.tolist(), self._ids.tolist(), strict=True))
        for value in (boxes.background, *boxes.class_ids.tolist()):
            if ids.get(value, NO_LABEL) == NO_LABEL:
                raise InputError(
                    f"{self._source.path}: boxes use the value {value}, which has no class: add it "
                    "to classes (0 is the background)"
                )
        class_ids = torch.tensor([ids[value] for value in boxes.class_ids.tolist()])
        return replace(boxes, class_ids=class_ids, background=ids[boxes.background])

    def _match_class_values(self, file: Path, label: Label) -> Label:
        """Return a label whose values are comparable with the stored values of the classes.

        Palette indices become colours if the classes are colours. With ``snap``, every value is
        replaced by the nearest class value.

        Raises:
            InputError: if a palette index has another colour than in an earlier file.
        """
        if label.palette and not label.coloured:
            if int(self._values.max()) >= FIRST_COLOUR:
                label = replace_indices_by_colours(label)
            elif conflict := find_palette_conflict(self._palettes, file, label):
                raise InputError(conflict)
        return snap(label, self._values.tolist()) if self._snap else label


def _by_name(classes: ClassList) -> dict[str, int | str]:
    """Return the stored value of each class by its name; colours are written as ``#rrggbb``."""
    is_colour = classes.keys == "colour"
    return {name: format_colour(key) if is_colour else key for key, name in classes.names.items()}


def _parse_value(value: Value) -> int:
    """Return a stored value as a number, a colour as its 24-bit number.

    Raises:
        InputError: if it is neither a number nor a colour.
    """
    if isinstance(value, int):
        return value
    with contextlib.suppress(ValueError):
        if value.startswith("#") and len(value) == 7:
            return int(value[1:], 16)
    raise InputError(f"unknown value {value!r}: give a number, or a colour such as '#ff8000'")


def _make_table(
    classes: Mapping[str, Value | Sequence[Value]], ignored: Sequence[Value]
) -> tuple[Tensor, Tensor]:
    """Return stored values in ascending order and their class ids; ignored values have the id -1.

    Raises:
        InputError: if a value belongs to two classes, or to a class and to ``ignored``.
    """
    ids = dict.fromkeys(map(_parse_value, ignored), -1)
    for id, (name, values) in enumerate(classes.items()):
        for value in map(_parse_value, (values,) if isinstance(values, int | str) else values):
            if value in ids:
                other = "ignored" if ids[value] < 0 else f"{list(classes)[ids[value]]!r}"
                raise InputError(f"value {value} is both {other} and {name!r}: choose one")
            ids[value] = id
    stored = sorted(ids)
    return torch.tensor(stored), torch.tensor([ids[value] for value in stored])
