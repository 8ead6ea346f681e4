"""A folder of images with a folder of their labels: the training set of a new task."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.files import read_image
from diffsight.datasets.labels import (
    LABEL_SUFFIXES,
    NO_CLASS,
    Colour,
    Label,
    LabelFormat,
    read_label,
)
from diffsight.datasets.pairs import content_hash, match_names
from diffsight.errors import InputError

# colours of classes whose files have none; the first is for a background
COLOURS: tuple[Colour, ...] = (
    *((0, 0, 0), (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48)),
    *((145, 30, 180), (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212)),
    *((0, 128, 128), (220, 190, 255), (170, 110, 40), (255, 250, 200), (128, 0, 0)),
)
MAX_CLASSES = 1024
LABELS: Mapping[str, str] = {
    "segmentation": "semantic",
    "depth": "depth_m",
    "scalar": "values",
    "normals": "normals",
    "vector": "values",
}
"""Key of ``Sample.labels`` by the kind of a ``LabelFormat``."""


class LabelledFolder(AbstractDataset):
    """Labelled images in memory, in the order of their content.

    A sample's id is the SHA-256 of its image file. Its label is ``semantic`` (``h w`` of int64: the
    number of the class, counted from 0; 0 where there is no label), ``depth_m``, ``values`` or
    ``normals`` (``d h w``).

    Args:
        form: how the labels were read.
        samples: the labelled images.
        ids: of the classes, as the files have them; empty for other kinds.
        names: of the classes.
        colours: of the classes.
        name: short name of the data set.
    """

    def __init__(
        self,
        form: LabelFormat,
        samples: Sequence[Sample],
        *,
        ids: Sequence[int] = (),
        names: Sequence[str] = (),
        colours: Sequence[Colour] = (),
        name: str = "labelled folder",
    ) -> None:
        self.form = form
        self.samples = tuple(samples)
        self.label = LABELS[form.kind]
        self.ids = tuple(ids)
        self.names = tuple(names)
        self.colours = tuple(colours)
        self.name = name
        self.class_names = {self.label: self.names} if names else {}

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``."""
        return self.samples[index]

    @property
    def ids_are_colours(self) -> bool:
        """Whether every class id is the 24-bit number of its colour."""
        return self.ids == tuple(r << 16 | g << 8 | b for r, g, b in self.colours)

    def values(self, most: int = 200_000) -> Float[Tensor, "m d"]:
        """Return labels of valid pixels, equally many of every image, drawn without order.

        Args:
            most: of all images together.
        """
        return sample_values(self.samples, self.label, most)


def sample_values(
    samples: Sequence[Sample], label: str, most: int = 200_000
) -> Float[Tensor, "m d"]:
    """Return labels of valid pixels, equally many of every image, drawn without order.

    Args:
        samples: labelled images.
        label: key of ``Sample.labels``.
        most: pixels of all images together.
    """
    per_image = max(1, most // len(samples))
    rows, generator = [], torch.Generator().manual_seed(0)
    for sample in samples:
        value = sample.labels[label]
        value = value[None].float() if value.ndim == 2 else value
        flat = value.movedim(0, -1)[sample.valid[label]]
        if len(flat) > per_image:
            flat = flat[torch.randperm(len(flat), generator=generator)[:per_image]]
        rows.append(flat)
    return torch.cat(rows)


@dataclass(frozen=True)
class _Pair:
    """An image and its label as the files have them."""

    id: str
    image: UInt8[Tensor, "3 h w"]
    label: Label
    file: Path

    @property
    def class_ids(self) -> Int[Tensor, "h w"]:
        return self.label.value[0].long()

    def sample(self, name: str, value: Tensor) -> Sample:
        return Sample(self.id, self.image, {name: value}, {name: self.label.valid})


def read_labelled_folder(
    images: Path,
    labels: Path,
    form: LabelFormat,
    *,
    classes: Sequence[str] = (),
    shots: int | None = None,
    like: LabelledFolder | None = None,
) -> LabelledFolder:
    """Return images and labels of the same names, or the first of them in the order of content.

    Args:
        images: folder.
        labels: folder.
        form: how labels are read.
        classes: names of the class ids from 0 on, or of the colours in the order of their 24-bit
            numbers; without them the ids that occur are the classes.
        shots: number of images; default: all.
        like: a data set whose classes these labels have, or some of them.

    Raises:
        InputError: if files do not fit together, are fewer than ``shots``, or hold classes without
            a name, or that ``like`` does not have; if two classes have the same name.
    """
    if shots is not None and shots < 1:
        raise InputError(f"{shots} shots: there is nothing to learn from: ask for 1 or more")
    for name, count in Counter(classes).items():
        if count > 1:
            raise InputError(f"{count} classes are named {name!r}: give each a name of its own")
    files = match_names(images, labels, LABEL_SUFFIXES, "label")
    if shots is not None and len(files) < shots:
        raise InputError(
            f"{images}: {len(files)} labelled image(s), but {shots} shots are asked for: add "
            f"images, or give --shots {len(files)}"
        )
    # copies of an image are in the order of their labels' content, not of their names
    ordered = sorted((*map(content_hash, pair), *pair) for pair in files)[:shots]
    pairs = [_read_pair(digest, image, label, form) for digest, _, image, label in ordered]
    name = Path(images).resolve().name
    if form.kind == "segmentation":
        if like is not None:
            return _with_classes_of(like, pairs, name)
        return _classified(form, pairs, classes, name)
    _require_same_channels(pairs)
    samples = tuple(pair.sample(LABELS[form.kind], pair.label.value) for pair in pairs)
    if like is not None:
        channels = len(like.samples[0].labels[like.label])
        if len(pairs[0].label.value) != channels:
            raise InputError(
                f"{labels}: {len(pairs[0].label.value)} channels, but the labels that are learned "
                f"from have {channels}"
            )
    return LabelledFolder(form, samples, name=name)


def _read_pair(digest: str, image_file: Path, label_file: Path, form: LabelFormat) -> _Pair:
    image, label = read_image(image_file), read_label(label_file, form)
    if label.valid.shape != image.shape[-2:]:
        (rows, columns), (height, width) = label.valid.shape, image.shape[-2:]
        raise InputError(
            f"{label_file}: a label of {columns} x {rows} pixels for an image ({image_file}) of "
            f"{width} x {height}: give both the same size, upright as the image is shown"
        )
    return _Pair(digest, image, label, label_file)


def _require_same_channels(pairs: Sequence[_Pair]) -> None:
    first = pairs[0]
    for pair in pairs:
        if len(pair.label.value) != len(first.label.value):
            raise InputError(
                f"{pair.file}: {len(pair.label.value)} channels, but {first.file} has "
                f"{len(first.label.value)}: labels of one task have the same number"
            )


def _classified(
    form: LabelFormat, pairs: Sequence[_Pair], names: Sequence[str], name: str
) -> LabelledFolder:
    """Return the samples with their classes numbered from 0 on."""
    counts: Counter[int] = Counter()
    palette: dict[int, Colour] = {}
    first = pairs[0]
    coloured = first.label.coloured  # ids that are colours have no order
    for pair in pairs:
        if pair.label.coloured != coloured:
            what = ("one channel of ids", "colours")
            raise InputError(
                f"{pair.file}: holds {what[pair.label.coloured]}, but {first.file} holds "
                f"{what[coloured]}: give all labels one form"
            )
        ids, numbers = pair.class_ids[pair.label.valid].unique(return_counts=True)
        counts.update(dict(zip(ids.tolist(), numbers.tolist(), strict=True)))
        palette |= pair.label.palette
    ids = _class_ids(counts, names, coloured)
    folder = first.file.parent
    if len(counts) < 2:
        hidden = 0 if coloured else _hidden_by_default(pairs, form)
        reason = "there is nothing to tell apart, check --kind and the labels"
        if hidden:
            reason = (
                f"{hidden} pixels of {NO_CLASS} are taken for 'no label', give --invalid -1 if "
                "they are a class"
            )
        raise InputError(f"{folder}: every label pixel is of class {next(iter(counts))}: {reason}")
    if len(ids) > MAX_CLASSES:
        raise InputError(
            f"{folder}: {len(ids)} different numbers are no classes (depth, or another map of "
            "numbers?): check --kind"
        )
    if not names:
        names = [_class_name(number, coloured) for number in ids]
    colours = [palette.get(n, COLOURS[i % len(COLOURS)]) for i, n in enumerate(ids)]
    samples = [_numbered(pair, ids) for pair in pairs]
    return LabelledFolder(form, samples, ids=ids, names=names, colours=colours, name=name)


def _class_ids(counts: Mapping[int, int], names: Sequence[str], coloured: bool) -> list[int]:
    """Return the ids that occur, or those that have a name."""
    present = sorted(counts)
    if coloured and len(names) not in (0, len(present)):
        listed = ", ".join(f"{_class_name(n, True)} ({counts[n]} px)" for n in present)
        raise InputError(
            f"{len(names)} class names, but the labels hold {len(present)} colours: {listed}: give "
            "a name for each, in this order"
        )
    if coloured or not names:
        return present
    unnamed = ", ".join(f"{n} ({counts[n]} px)" for n in present if n >= len(names))
    if unnamed:
        raise InputError(
            f"{len(names)} class names, but the labels hold class ids without one: {unnamed}: add "
            "names, one per id from 0 on, leave them all out, or mark the ids with --invalid"
        )
    return list(range(len(names)))


def _hidden_by_default(pairs: Iterable[_Pair], form: LabelFormat) -> int:
    """Return how many pixels are left out because of the default marker alone."""
    if form.invalid is not None:
        return 0
    whole = replace(form, invalid=-1)
    return sum(int((read_label(pair.file, whole).value == NO_CLASS).sum()) for pair in pairs)


def _with_classes_of(like: LabelledFolder, pairs: Sequence[_Pair], name: str) -> LabelledFolder:
    """Return a data set of this name with the classes of another one."""
    for pair in pairs:
        present = pair.class_ids[pair.label.valid].unique()
        unknown = present[~torch.isin(present, torch.tensor(like.ids))].tolist()
        if unknown:
            raise InputError(
                f"{pair.file}: holds class {unknown[0]}, of which nothing is learned: the labelled "
                f"images have {', '.join(map(str, like.ids))}"
            )
    samples = [_numbered(pair, like.ids) for pair in pairs]
    return LabelledFolder(
        like.form, samples, ids=like.ids, names=like.names, colours=like.colours, name=name
    )


def _numbered(pair: _Pair, ids: Sequence[int]) -> Sample:
    """Return the sample with the numbers of the classes instead of their ids."""
    numbers = torch.searchsorted(torch.tensor(ids), pair.class_ids.contiguous())
    return pair.sample("semantic", numbers * pair.label.valid)


def _class_name(number: int, coloured: bool) -> str:
    return f"#{number:06x}" if coloured else f"class {number}"
