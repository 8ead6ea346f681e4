"""A folder of images with a folder of their labels: the training set of a new task."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.class_ids import Mask, as_ids_of, hex_colour, named_ids, settle
from diffsight.datasets.class_lists import ClassList
from diffsight.datasets.files import read_image
from diffsight.datasets.find_labels import find_labels
from diffsight.datasets.label_source import AbstractLabelSource
from diffsight.datasets.labels import Colour, Label, LabelFormat, colour_of
from diffsight.datasets.mask_values import MAX_CLASSES, count_ids
from diffsight.datasets.pairs import content_hash
from diffsight.errors import InputError
from diffsight.types import Boxes

# colours of classes whose files have none; the first is for a background
COLOURS: tuple[Colour, ...] = (
    *((0, 0, 0), (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48)),
    *((145, 30, 180), (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212)),
    *((0, 128, 128), (220, 190, 255), (170, 110, 40), (255, 250, 200), (128, 0, 0)),
)
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
        notes: how files were paired and numbers understood, a line each.
        name: short name of the data set.
        images: paths of the images below their folder, in the order of the samples; empty if they
            are not known.
    """

    def __init__(
        self,
        form: LabelFormat,
        samples: Sequence[Sample],
        *,
        ids: Sequence[int] = (),
        names: Sequence[str] = (),
        colours: Sequence[Colour] = (),
        notes: Sequence[str] = (),
        name: str = "labelled folder",
        images: Sequence[Path] = (),
    ) -> None:
        self.form = form
        self.samples = tuple(samples)
        self.label = LABELS[form.kind]
        self.ids = tuple(ids)
        self.names = tuple(names)
        self.colours = tuple(colours)
        self.notes = tuple(notes)
        self.name = name
        self.images = tuple(images)
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

    def sample(self, name: str, value: Tensor, boxes: Boxes | None = None) -> Sample:
        valid = {name: self.label.valid}
        return Sample(self.id, self.image, {name: value}, valid, boxes=boxes)


def read_labelled_folder(
    images: Path,
    labels: Path,
    form: LabelFormat,
    *,
    classes: Sequence[str] | ClassList = (),
    shots: int | None = None,
    like: LabelledFolder | None = None,
) -> LabelledFolder:
    """Return images and labels of the same names, or the first of them in the order of content.

    Images without a label are left out, and named in the notes.

    Args:
        images: folder.
        labels: folder or file, see ``find_labels``.
        form: how labels are read.
        classes: names of the class ids from 0 on, or of the colours in the order of their 24-bit
            numbers, or by id or colour; without them the ids that occur are the classes.
        shots: number of images; default: all.
        like: a data set whose classes these labels have, or some of them.

    Raises:
        InputError: if files do not fit together, are fewer than ``shots``, or hold classes without
            a name, or that ``like`` does not have; if two classes have the same name.
    """
    if shots is not None and shots < 1:
        raise InputError(f"{shots} shots: there is nothing to learn from: ask for 1 or more")
    classes = ClassList.of(classes)
    for name, count in Counter(classes.names.values()).items():
        if count > 1:
            raise InputError(f"{count} classes are named {name!r}: give each a name of its own")
    found = find_labels(images, labels, form.kind, some_without=True)
    source = found.source.numbered_by(classes)
    if shots is not None and len(found.pairs) < shots:
        raise InputError(
            f"{images}: {len(found.pairs)} labelled image(s), but {shots} shots are requested: add "
            f"images, or give --shots {len(found.pairs)}"
        )
    # copies of an image are in the order of their labels' content, not of their names
    ordered = sorted(
        (content_hash(image), source.digest(name), image, name) for image, name in found.pairs
    )[:shots]
    # what 255 is in ids of classes, all files together show
    is_open = form.kind == "segmentation" and form.invalid is None
    read_form = replace(form, invalid=-1) if is_open else form
    pairs = [
        _read_pair(digest, image, source, label, read_form) for digest, _, image, label in ordered
    ]
    name = Path(images).resolve().name
    if form.kind != "segmentation":
        folder = _of_numbers(form, pairs, like, labels, name)
    elif like is not None:
        folder = _with_classes_of(like, form, pairs, source.classes, name)
    else:
        folder = _of_classes(form, pairs, classes or source.classes or classes, name)
    folder.images = tuple(image.relative_to(images) for _, _, image, _ in ordered)
    unlabelled = [] if source.are_points else _unlabelled_pixels(folder, form)
    folder.notes = (*found.notes, *folder.notes, *unlabelled)
    return folder


def _read_pair(
    digest: str, image_file: Path, source: AbstractLabelSource, name: str, form: LabelFormat
) -> _Pair:
    image, file = read_image(image_file), source.file(name)
    label = source.read(name, form, (image.shape[-2], image.shape[-1]))
    if label.valid.shape != image.shape[-2:]:
        (rows, columns), (height, width) = label.valid.shape, image.shape[-2:]
        raise InputError(
            f"{file}: a label of {columns} x {rows} pixels for an image ({image_file}) of "
            f"{width} x {height}: give both the same size, upright as the image is shown"
        )
    return _Pair(digest, image, label, file)


def _unlabelled_pixels(folder: LabelledFolder, form: LabelFormat) -> list[str]:
    """Return a note about pixels without a label, and why; 255 has a note of its own."""
    masks = [sample.valid[folder.label] for sample in folder.samples]
    count = sum(int((~mask).sum()) for mask in masks)
    if not count or (form.kind == "segmentation" and form.invalid is None):
        return []
    reasons = [] if form.invalid is None else [f"{form.invalid:g} (--invalid)"]
    reasons += {"depth": ["0"], "normals": ["no direction"]}.get(form.kind, [])
    if form.kind != "segmentation":  # ids are whole numbers
        reasons.append("not finite")
    whole = sum(mask.numel() for mask in masks)
    part = f"{100 * count / whole:.1f} %"
    return [f"{count} pixels ({part}) have no label: {', '.join(reasons)}"]


def _of_numbers(
    form: LabelFormat,
    pairs: Sequence[_Pair],
    like: LabelledFolder | None,
    labels: Path,
    name: str,
) -> LabelledFolder:
    """Return the samples of labels that are no classes."""
    first = pairs[0]
    for pair in pairs:
        if len(pair.label.value) != len(first.label.value):
            raise InputError(
                f"{pair.file}: {len(pair.label.value)} channels, but {first.file} has "
                f"{len(first.label.value)}: labels of one task have the same number"
            )
    samples = tuple(pair.sample(LABELS[form.kind], pair.label.value) for pair in pairs)
    if like is not None:
        channels = len(like.samples[0].labels[like.label])
        if len(first.label.value) != channels:
            raise InputError(
                f"{labels}: {len(first.label.value)} channels, but the labels that are learned "
                f"from have {channels}"
            )
    return LabelledFolder(form, samples, name=name)


def _of_classes(
    form: LabelFormat, pairs: Sequence[_Pair], classes: ClassList, name: str
) -> LabelledFolder:
    """Return the samples with their classes numbered from 0 on."""
    first = pairs[0]
    for pair in pairs:
        if pair.label.coloured != first.label.coloured:
            what = ("one channel of ids", "colours")
            raise InputError(
                f"{pair.file}: holds {what[pair.label.coloured]}, but {first.file} holds "
                f"{what[first.label.coloured]}: give all labels one form"
            )
    masks = [Mask(pair.file, pair.label) for pair in pairs]
    labels, form, notes = settle(masks, form, classes)
    counts, coloured, folder = count_ids(labels), labels[0].coloured, first.file.parent
    ids, names = named_ids(folder, counts, classes, coloured)
    if len(counts) < 2:
        (only,) = counts
        raise InputError(
            f"{folder}: every label pixel is of class {hex_colour(only) if coloured else only}: "
            "there is nothing to tell apart, check --kind and the labels"
        )
    if len(ids) > MAX_CLASSES:
        raise InputError(
            f"{folder}: {len(ids)} different numbers are no classes (depth, or another map of "
            "numbers?): check --kind"
        )
    palette = {n: colour for label in labels for n, colour in label.palette.items()}
    if coloured:
        palette = {n: colour_of(n) for n in ids}
    colours = [palette.get(n, COLOURS[i % len(COLOURS)]) for i, n in enumerate(ids)]
    samples = [
        _numbered(replace(pair, label=label), ids)
        for pair, label in zip(pairs, labels, strict=True)
    ]
    return LabelledFolder(
        form, samples, ids=ids, names=names, colours=colours, notes=notes, name=name
    )


def _with_classes_of(
    like: LabelledFolder,
    form: LabelFormat,
    pairs: Sequence[_Pair],
    classes: ClassList | None,
    name: str,
) -> LabelledFolder:
    """Return a data set of this name with the classes of another one."""
    samples = []
    for pair in pairs:
        label = as_ids_of(like.ids, like.names, pair.file, pair.label, form, classes)
        samples.append(_numbered(replace(pair, label=label), like.ids))
    return LabelledFolder(
        like.form, samples, ids=like.ids, names=like.names, colours=like.colours, name=name
    )


def _numbered(pair: _Pair, ids: Sequence[int]) -> Sample:
    """Return the sample with the numbers of the classes instead of their ids."""
    known = torch.tensor(ids)
    numbers = torch.searchsorted(known, pair.label.class_ids.contiguous())
    if boxes := pair.label.boxes:
        background = ids.index(boxes.background)
        class_ids = torch.searchsorted(known, boxes.class_ids)
        boxes = replace(boxes, class_ids=class_ids, background=background)
    return pair.sample("semantic", numbers * pair.label.valid, boxes)
