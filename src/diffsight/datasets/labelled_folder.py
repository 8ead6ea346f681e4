"""Read a folder of labelled images of any dense task into memory as a data set."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.class_ids import Mask, format_colour, interpret_masks, select_classes
from diffsight.datasets.class_lists import ClassList
from diffsight.datasets.find_labels import find_labels
from diffsight.datasets.labelled_pairs import (
    LabelledPair,
    read_pair,
    require_one_form,
    unify_form,
)
from diffsight.datasets.labels import HIGHEST_ID, Colour, LabelFormat, unpack_colour
from diffsight.datasets.mask_values import MAX_CLASSES, count_ids
from diffsight.datasets.pairs import content_hash
from diffsight.datasets.training_classes import TrainingClasses, match_names, match_values
from diffsight.errors import InputError

# colours for classes if the label files have none; the first suits a background
COLOURS: tuple[Colour, ...] = (
    *((0, 0, 0), (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48)),
    *((145, 30, 180), (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212)),
    *((0, 128, 128), (220, 190, 255), (170, 110, 40), (255, 250, 200), (128, 0, 0)),
)
LABEL_KEYS: Mapping[str, str] = {
    "segmentation": "semantic",
    "depth": "depth_m",
    "scalar": "values",
    "normals": "normals",
    "vector": "values",
}
"""Key of ``Sample.labels`` by ``LabelFormat.kind``."""


class LabelledFolder(AbstractDataset):
    """Labelled images in memory, sorted by a hash of their content.

    The id of a sample is the SHA-256 of its image file. Its label is ``semantic`` (``h w`` of
    int64: class numbers from 0, and 0 for pixels without a label), ``depth_m``, ``values`` or
    ``normals`` (``d h w`` of float32).

    Args:
        form: format with which the labels were read.
        samples: labelled images.
        ids: class id in the label files for each class number; empty for labels that are not
            classes.
        names: name of each class, in the same order.
        colours: RGB colour of each class, in the same order.
        notes: notes on how files were paired and values interpreted, one line each.
        name: short name of the data set.
        images: paths of the images relative to their folder, in the order of the samples; empty if
            unknown.
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
        self.label = LABEL_KEYS[form.kind]
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
        """True if every class id is the 24-bit number of its colour."""
        return self.ids == tuple(r << 16 | g << 8 | b for r, g, b in self.colours)

    def values(self, max_count: int = 200_000) -> Float[Tensor, "m d"]:
        """Return the labels of m random valid pixels with d channels, see ``sample_values``.

        Args:
            max_count: largest number of pixels of all images together.
        """
        return sample_values(self.samples, self.label, max_count)


def sample_values(
    samples: Sequence[Sample], label: str, max_count: int = 200_000
) -> Float[Tensor, "m d"]:
    """Return the labels of m random valid pixels with d channels.

    The number of pixels per image is limited to ``max_count`` divided by the number of images.
    Every call chooses the same pixels.

    Args:
        samples: labelled images.
        label: key of ``Sample.labels``.
        max_count: largest number of pixels of all images together.
    """
    per_image = max(1, max_count // len(samples))
    rows, generator = [], torch.Generator().manual_seed(0)
    for sample in samples:
        value = sample.labels[label]
        value = value[None].float() if value.ndim == 2 else value
        flat = value.movedim(0, -1)[sample.valid[label]]
        if len(flat) > per_image:
            flat = flat[torch.randperm(len(flat), generator=generator)[:per_image]]
        rows.append(flat)
    return torch.cat(rows)


def read_labelled_folder(
    images: Path,
    labels: Path,
    form: LabelFormat,
    *,
    classes: Sequence[str] | ClassList = (),
    shots: int | None = None,
    like: LabelledFolder | None = None,
) -> LabelledFolder:
    """Read a folder of images and their labels.

    Images without a label are skipped and listed in the notes.

    Args:
        images: folder of the images.
        labels: folder or file of the labels, see ``find_labels``.
        form: format with which the labels are read.
        classes: class names by id or by colour; or a sequence of names, which belong to the ids
            from 0 on, or to the colours in ascending order of their 24-bit numbers. Without names,
            all ids that occur are classes.
        shots: number of images, taken in the order of their hashes; None takes all.
        like: data set whose classes the labels must have; give the training set when you read a
            validation set. Its ``form.invalid`` applies to masks, unless ``form`` has one. Classes
            with a name in ``classes`` or in the labels are matched by name, others by id or colour.
            None takes the classes from the labels.

    Raises:
        InputError: if files do not match, there are fewer images than ``shots``, a class has no
            name or is not in ``like``, or two classes have the same name.
    """
    if shots is not None and shots < 1:
        raise InputError(f"{shots} shots are requested: give 1 or more")
    classes = ClassList.of(classes)
    for name, count in Counter(classes.names.values()).items():
        if count > 1:
            raise InputError(f"{count} classes are named {name!r}: use different names")
    labelled = find_labels(images, labels, form.kind, allow_unlabelled=True)
    source = labelled.source.renumber(classes)
    if shots is not None and len(labelled.pairs) < shots:
        raise InputError(
            f"{images}: {len(labelled.pairs)} labelled image(s), but {shots} shots are requested: "
            f"add images, or give --shots {len(labelled.pairs)}"
        )
    # the hash of the label orders copies of one image, so that names never affect the order
    ordered = sorted(
        (content_hash(image), source.digest(name), image, name) for image, name in labelled.pairs
    )[:shots]
    # interpret_masks decides later, from all masks together, whether the id 255 means "no label"
    is_undecided = form.kind == "segmentation" and form.invalid is None
    read_form = replace(form, invalid=-1) if is_undecided else form
    pairs = [
        read_pair(digest, image, source, label, read_form) for digest, _, image, label in ordered
    ]
    if form.kind == "segmentation":
        coloured = None if like is None or source.classes or classes else _has_colours(like)
        pairs = unify_form(pairs, source, read_form, coloured=coloured)
    name, notes = Path(images).resolve().name, list[str]()
    if form.kind != "segmentation":
        folder = _build_from_numbers(form, pairs, like, labels, name)
    elif like is not None:
        if source.classes is None and len(classes):
            pairs, classes, notes = _name_values(form, pairs, classes, labels)
        named = source.classes or classes
        folder = _build_with_classes_of(like, form, pairs, named, labels, name)
        folder.notes = (*notes, *folder.notes)
    else:
        folder = _build_from_classes(
            form, pairs, classes or source.classes or classes, labels, name
        )
    folder.images = tuple(image.relative_to(images) for _, _, image, _ in ordered)
    unlabelled = [] if source.is_sparse else _describe_unlabelled_pixels(folder, form)
    folder.notes = (*labelled.notes, *folder.notes, *unlabelled)
    return folder


def _describe_unlabelled_pixels(folder: LabelledFolder, form: LabelFormat) -> list[str]:
    """Return a note with the number of pixels without a label and the reasons, or no note.

    ``interpret_masks`` writes the note about class maps without ``form.invalid``.
    """
    masks = [sample.valid[folder.label] for sample in folder.samples]
    count = sum(int((~mask).sum()) for mask in masks)
    if not count or (form.kind == "segmentation" and form.invalid is None):
        return []
    reasons = [] if form.invalid is None else [f"{form.invalid:g} (--invalid)"]
    reasons += {"depth": ["0"], "normals": ["no direction"]}.get(form.kind, [])
    if form.kind != "segmentation":  # class ids are always finite
        reasons.append("not finite" if form.kind == "depth" else "not finite or transparent")
    percentage = 100 * count / sum(mask.numel() for mask in masks)
    return [f"{count} pixels ({percentage:.1f} %) have no label: {', '.join(reasons)}"]


def _build_from_numbers(
    form: LabelFormat,
    pairs: Sequence[LabelledPair],
    like: LabelledFolder | None,
    labels: Path,
    name: str,
) -> LabelledFolder:
    """Return a data set of labels that are not classes.

    Args:
        form: format with which the labels were read.
        pairs: images with their labels.
        like: training set whose labels must have the same number of channels, or None.
        labels: path of the labels, for messages.
        name: name of the data set.

    Raises:
        InputError: if the labels differ in their number of channels.
    """
    first = pairs[0]
    for pair in pairs:
        if len(pair.label.value) != len(first.label.value):
            raise InputError(
                f"{pair.file}: {len(pair.label.value)} channels, but {first.file} has "
                f"{len(first.label.value)}: use the same number of channels in all labels"
            )
    samples = tuple(pair.to_sample(LABEL_KEYS[form.kind], pair.label.value) for pair in pairs)
    if like is not None:
        channels = len(like.samples[0].labels[like.label])
        if len(first.label.value) != channels:
            raise InputError(
                f"{labels}: {len(first.label.value)} channels, but the training labels have "
                f"{channels}: use the same number of channels"
            )
    return LabelledFolder(form, samples, name=name)


def _build_from_classes(
    form: LabelFormat, pairs: Sequence[LabelledPair], classes: ClassList, path: Path, name: str
) -> LabelledFolder:
    """Return a data set of class maps with classes numbered from 0.

    Args:
        form: format with which the labels were read.
        pairs: images with their labels.
        classes: class names, possibly none.
        path: folder or file of the labels, for messages.
        name: name of the data set.

    Raises:
        InputError: if the labels contradict each other, or have fewer than two classes or too many
            values for classes.
    """
    require_one_form(pairs)
    masks = [Mask(pair.file, pair.label) for pair in pairs]
    labels, form, notes = interpret_masks(masks, form, classes, path)
    counts, coloured = count_ids(labels), labels[0].coloured
    ids, names = select_classes(path, counts, classes, coloured)
    if len(counts) < 2:
        (number,) = counts
        raise InputError(
            f"{path}: all labelled pixels have the class "
            f"{format_colour(number) if coloured else number}, but at least two classes are "
            "needed: check --kind and the labels"
        )
    if len(ids) > MAX_CLASSES:
        raise InputError(
            f"{path}: {len(ids)} different values are too many for class ids (are they depths or "
            "other numbers?): check --kind"
        )
    palette = {n: colour for label in labels for n, colour in label.palette.items()}
    if coloured:
        palette = {n: unpack_colour(n) for n in ids}
    colours = [palette.get(n, colour) for n, colour in zip(ids, _default_colours(ids), strict=True)]
    samples = [
        _number_classes(replace(pair, label=label), ids)
        for pair, label in zip(pairs, labels, strict=True)
    ]
    return LabelledFolder(
        form, samples, ids=ids, names=names, colours=colours, notes=notes, name=name
    )


def _name_values(
    form: LabelFormat, pairs: Sequence[LabelledPair], classes: ClassList, path: Path
) -> tuple[list[LabelledPair], ClassList, list[str]]:
    """Return pairs with interpreted masks, the names of their values, and notes for the user.

    Args:
        form: format with which the labels were read.
        pairs: images with their labels.
        classes: class names by id, colour or position.
        path: folder or file of the labels, for messages.

    Raises:
        InputError: if the labels contradict each other, or a value has no name.
    """
    require_one_form(pairs)
    masks = [Mask(pair.file, pair.label) for pair in pairs]
    labels, _, notes = interpret_masks(masks, form, classes, path)
    ids, names = select_classes(path, count_ids(labels), classes, labels[0].coloured)
    pairs = [replace(pair, label=label) for pair, label in zip(pairs, labels, strict=True)]
    return pairs, ClassList(dict(zip(ids, names, strict=True)), "id"), notes


def _has_colours(folder: LabelledFolder) -> bool:
    """Return whether the class ids of a data set are 24-bit numbers of colours."""
    return folder.ids_are_colours or max(folder.ids) > HIGHEST_ID


def _build_with_classes_of(
    like: LabelledFolder,
    form: LabelFormat,
    pairs: Sequence[LabelledPair],
    classes: ClassList,
    path: Path,
    name: str,
) -> LabelledFolder:
    """Return a data set of class maps with the classes of the data set ``like``.

    Args:
        like: data set that defines the classes.
        form: format with which the labels were read.
        pairs: images with their labels.
        classes: names of the classes in the labels, possibly none.
        path: folder or file of the labels, for messages.
        name: name of the new data set.

    Raises:
        InputError: if a label has a class that ``like`` does not have.
    """
    palette = dict(zip(like.ids, like.colours, strict=False))
    if like.colours == _default_colours(like.ids):
        palette = {}
    training = TrainingClasses(like.ids, like.names, palette, _has_colours(like), like.form.invalid)
    masks, notes = [Mask(pair.file, pair.label) for pair in pairs], list[str]()
    if len(classes):
        labels = match_names(training, masks, classes)
    else:
        labels, notes = match_values(training, masks, form, path)
    samples = [
        _number_classes(replace(pair, label=label), like.ids)
        for pair, label in zip(pairs, labels, strict=True)
    ]
    return LabelledFolder(
        like.form,
        samples,
        ids=like.ids,
        names=like.names,
        colours=like.colours,
        notes=notes,
        name=name,
    )


def _default_colours(ids: Sequence[int]) -> tuple[Colour, ...]:
    """Return the colours of classes whose label files have none."""
    return tuple(COLOURS[i % len(COLOURS)] for i in range(len(ids)))


def _number_classes(pair: LabelledPair, ids: Sequence[int]) -> Sample:
    """Return a sample whose label has class numbers, the positions of its class ids in ``ids``."""
    sorted_ids = torch.tensor(ids)
    numbers = torch.searchsorted(sorted_ids, pair.label.class_ids.contiguous())
    if boxes := pair.label.boxes:
        background = ids.index(boxes.background)
        class_ids = torch.searchsorted(sorted_ids, boxes.class_ids)
        boxes = replace(boxes, class_ids=class_ids, background=background)
    return pair.to_sample("semantic", numbers * pair.label.valid, boxes)
