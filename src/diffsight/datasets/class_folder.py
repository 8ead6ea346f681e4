"""A user's own images and class labels."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.class_ids import check_palette, hex_colour, palette_colours, snap
from diffsight.datasets.class_lists import ClassList, read_class_list
from diffsight.datasets.files import read_image
from diffsight.datasets.find_labels import find_labels
from diffsight.datasets.labels import Colour, Label, LabelFormat
from diffsight.datasets.pairs import one_side, require_one_size
from diffsight.datasets.transforms import resize
from diffsight.errors import InputError
from diffsight.ops.resize import working_hw
from diffsight.types import Boxes

NOTHING = -1  # as a stored value: no label, as NaN is
LISTED = 5
COLOUR = 256  # values from here on are colours
Value = int | str


class ClassFolder(AbstractDataset):
    """Pairs of an image and a map of classes, matched and split as in ``Folder``.

    Label ``semantic`` is ``h w`` of int64: ids from 0 in the order of ``classes``.

    Args:
        root: folder that the other paths are relative to.
        classes: what is stored for each class, by its name: one value or several. A colour is
            ``"#ff8000"``, or its 24-bit number. Or a file of ``read_class_list``. None: the classes
            that the labels name themselves (COCO, labelme).
        images: folder of the images.
        labels: folder or file of ``find_labels``: PNG, TIFF or NPY of values, a palette's indices
            (its colours where classes are colours), a colour per class, or polygons.
        ignored: values that are no class; NaN and -1 never are.
        snap: take the nearest of these values for every other one, in smoothed or compressed masks.
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
        found = find_labels(root / images, root / labels, "segmentation")
        if isinstance(classes, str):
            classes = _by_name(read_class_list(root / classes))
        elif classes is None and found.source.classes is not None:
            classes = _by_name(found.source.classes)
        if not classes:
            raise InputError("classes: none given: name what is stored for each")
        self.name = root.resolve().name
        self.class_names = {"semantic": tuple(classes)}
        self._values, self._ids = _lookup(classes, ignored)
        self._source, self._snap = found.source, snap
        self._palettes: dict[int, tuple[Colour, Path]] = {}  # of the files that were read
        side = one_side([image for image, _ in found.pairs], split, val_fraction, root)
        self.pairs = [found.pairs[index] for index in side]
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
        path, stored_name = self.pairs[index]
        image, file = read_image(path), self._source.file(stored_name)
        form = LabelFormat("segmentation", invalid=NOTHING, snap=self._snap)
        hw = image.shape[-2], image.shape[-1]
        label = self._as_stored(file, self._source.read(stored_name, form, hw))
        stored = label.class_ids
        require_one_size(file, stored, path, image)
        position = torch.searchsorted(self._values, stored).clamp(max=len(self._values) - 1)
        unknown = stored[label.valid & (self._values[position] != stored)]
        if len(unknown):
            values, counts = unknown.unique(return_counts=True)
            some = zip(values[:LISTED].tolist(), counts.tolist(), strict=False)
            form_of = hex_colour if label.coloured else str
            listed = ", ".join(f"{form_of(value)} ({count} pixels)" for value, count in some)
            more = ", ..." if len(values) > LISTED else ""
            raise InputError(
                f"{file}: {len(values)} value(s) of no class: {listed}{more}: add them to classes, "
                "or to ignored"
            )
        ids = self._ids[position]
        name = path.relative_to(self._images).with_suffix("").as_posix()
        valid = label.valid & (ids >= 0)
        maps = {"semantic": torch.where(valid, ids, 0)}, {"semantic": valid}
        sample = Sample(name, image, *maps, boxes=label.boxes and self._numbered(label.boxes))
        if self.short_side is None:
            return sample
        height, width = image.shape[-2:]
        return resize(sample, *working_hw(height, width, self.short_side))

    def _numbered(self, boxes: Boxes) -> Boxes:
        """Return boxes with the numbers of the classes instead of stored values.

        Raises:
            InputError: if a box, or the background around the objects, has no class.
        """
        numbers = dict(zip(self._values.tolist(), self._ids.tolist(), strict=True))
        for value in (boxes.background, *boxes.class_ids.tolist()):
            if numbers.get(value, NOTHING) == NOTHING:
                raise InputError(
                    f"{self._source.path}: boxes of value {value}, which is no class: add it to "
                    "classes (0 is the background)"
                )
        class_ids = torch.tensor([numbers[value] for value in boxes.class_ids.tolist()])
        return replace(boxes, class_ids=class_ids, background=numbers[boxes.background])

    def _as_stored(self, file: Path, label: Label) -> Label:
        """Return a label in the values of the classes.

        Raises:
            InputError: if an id has another colour in a file that was read before.
        """
        if label.palette and not label.coloured:
            if int(self._values.max()) >= COLOUR:
                label = palette_colours(label)
            elif conflict := check_palette(self._palettes, file, label):
                raise InputError(conflict)
        return snap(label, self._values.tolist()) if self._snap else label


def _by_name(classes: ClassList) -> dict[str, int | str]:
    """Return what is stored for each class by its name."""
    is_colour = classes.keys == "colour"
    return {n: hex_colour(key) if is_colour else key for key, n in classes.names.items()}


def _number(value: Value) -> int:
    """Return a stored value; of a colour its 24-bit number."""
    if isinstance(value, int):
        return value
    with contextlib.suppress(ValueError):
        if value.startswith("#") and len(value) == 7:
            return int(value[1:], 16)
    raise InputError(f"value {value!r}: give a number, or a colour such as '#ff8000'")


def _lookup(
    classes: Mapping[str, Value | Sequence[Value]], ignored: Sequence[Value]
) -> tuple[Tensor, Tensor]:
    """Return stored values in rising order, and the id of each, -1 for those that are ignored."""
    ids = dict.fromkeys(map(_number, ignored), -1)
    for id, (name, values) in enumerate(classes.items()):
        for value in map(_number, (values,) if isinstance(values, int | str) else values):
            if value in ids:
                other = "ignored" if ids[value] < 0 else f"{list(classes)[ids[value]]!r}"
                raise InputError(f"value {value} is both {other} and {name!r}: choose one")
            ids[value] = id
    stored = sorted(ids)
    return torch.tensor(stored), torch.tensor([ids[value] for value in stored])
