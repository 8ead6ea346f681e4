"""Match the values in class masks with the classes of a training set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from diffsight.datasets.class_ids import (
    FREQUENT,
    SNAP_DISTANCE,
    Mask,
    find_palette_conflict,
    format_colour,
    replace_indices_by_colours,
    snap,
    snap_all,
)
from diffsight.datasets.class_lists import ClassList
from diffsight.datasets.labels import NO_CLASS, Colour, Label, LabelFormat
from diffsight.datasets.mask_values import count_ids, interpret_255, require_sharp, unify_white
from diffsight.errors import InputError


@dataclass(frozen=True)
class TrainingClasses:
    """The classes of the training set.

    Attributes:
        ids: class ids in the training labels.
        names: class names, in the same order.
        palette: colours by class id; empty if the training labels have no palette.
        ids_are_colours: whether the ids are 24-bit numbers of colours.
        invalid: value that means "no label" in the training labels; -1 if no value does, None if
            that is unknown.
    """

    ids: Sequence[int]
    names: Sequence[str]
    palette: Mapping[int, Colour]
    ids_are_colours: bool
    invalid: int | float | None = None


def match_names(
    training: TrainingClasses, masks: Sequence[Mask], classes: ClassList
) -> list[Label]:
    """Return masks, for example of validation images, with the class ids of the training set.

    Classes are matched by name.

    Args:
        training: classes of the training set.
        masks: masks to match.
        classes: class names by the values in the masks.

    Raises:
        InputError: if a mask contains a class that is not in the training set.
    """
    ids, labels = dict(zip(training.names, training.ids, strict=True)), []
    for mask in masks:
        present = list(count_ids([mask.label]))
        for number in present:
            if (name := classes.names[number]) not in ids:
                raise _unknown_class_error(mask.file, repr(name), number, training.names)
        label = mask.label.renumber({number: ids[classes.names[number]] for number in present})
        labels.append(replace(label, coloured=training.ids_are_colours))
    return labels


def match_values(
    training: TrainingClasses, masks: Sequence[Mask], form: LabelFormat, path: Path
) -> tuple[list[Label], list[str]]:
    """Return masks, for example of validation images, with the class ids of the training set.

    Classes are matched by id, or by colour if palettes have another order. Whether 255 means "no
    label" is decided as for training masks, unless the training set decides it.

    Args:
        training: classes of the training set.
        masks: all masks of a folder. Unless ``form.invalid`` is given, they were read without a
            marker for "no label".
        form: format with which they were read.
        path: folder or file of all labels, for messages.

    Returns:
        The labels, and notes for the user.

    Raises:
        InputError: if a mask contains a class that is not in the training set, its palette
            contradicts that of the training set, or the masks are smoothed.
    """
    files, ids = [mask.file for mask in masks], training.ids
    for mask in masks:
        _require_same_form(training, mask)
    is_white = NO_CLASS in ids and 1 not in ids and not training.ids_are_colours
    labels, notes = unify_white(files, [mask.label for mask in masks], form, is_255=is_white)
    if form.snap and (plain := [label for label in labels if not label.palette]):
        counts = count_ids(plain)
        snapped, note = snap_all(plain, counts, _snap_targets(training, counts))
        others = iter(snapped)
        labels = [label if label.palette else next(others) for label in labels]
        notes.append(note)
    if form.invalid is None:
        labels, reasons = _remove_unlabelled(training, labels)
        notes += reasons
    labels = [
        _match_colours(training, file, label, form.snap)
        if label.palette and not label.coloured
        else label
        for file, label in zip(files, labels, strict=True)
    ]
    for file, label in zip(files, labels, strict=True):
        present = label.class_ids[label.valid].unique()
        if unknown := present[~torch.isin(present, torch.tensor(ids))].tolist():
            require_sharp(path, labels, count_ids(labels))
            show = format_colour if label.coloured else str
            raise _unknown_class_error(file, show(unknown[0]), unknown[0], [*map(show, ids)])
    return labels, notes


def _unknown_class_error(file: Path, name: str, number: int, classes: Sequence[str]) -> InputError:
    """Return the error to raise for a class that is not in the training set.

    Args:
        file: file that contains the class.
        name: name of the class, for the message.
        number: value of the class in the file.
        classes: names of the training classes, for the message.
    """
    return InputError(
        f"{file}: contains the class {name}, which is not in the training set (its classes: "
        f"{', '.join(classes)}): label some training images with it, remove it here, or mark it as "
        f"unlabelled with --invalid {number}"
    )


def _require_same_form(training: TrainingClasses, mask: Mask) -> None:
    """Raise an error for ids where the training classes are colours, and the other way round.

    Raises:
        InputError: naming the file.
    """
    label = mask.label
    if label.coloured == training.ids_are_colours or (label.palette and not label.coloured):
        return
    form, other = "colours", "ids"
    if not label.coloured:
        form, other = "ids without a palette", "colours"
    raise InputError(
        f"{mask.file}: contains {form}, but the classes of the training set are {other}: save it "
        "in the form of the training labels, or name the classes of both in --classes"
    )


def _snap_targets(training: TrainingClasses, counts: Mapping[int, int]) -> list[int]:
    """Return the values that smoothed masks are snapped to: those of the classes and "no label".

    Args:
        training: classes of the training set.
        counts: number of pixels by value.
    """
    marker = training.invalid
    if marker is None and not training.ids_are_colours:
        is_frequent = counts.get(NO_CLASS, 0) >= FREQUENT * sum(counts.values())
        is_noise = min(abs(NO_CLASS - number) for number in training.ids) <= SNAP_DISTANCE
        marker = NO_CLASS if is_frequent and not is_noise else None
    return sorted({*training.ids, *([int(marker)] if marker is not None and marker >= 0 else [])})


def _remove_unlabelled(
    training: TrainingClasses, labels: Sequence[Label]
) -> tuple[list[Label], list[str]]:
    """Return masks whose pixels without a label are not valid, and notes with the reason."""
    marker, notes = training.invalid, list[str]()
    if marker is None and (training.ids_are_colours or NO_CLASS not in training.ids):
        one_channel = [label for label in labels if not label.coloured]
        marker, notes = interpret_255(one_channel, ClassList({}))
    elif marker is not None:
        count = sum(int((label.valid & (label.class_ids == marker)).sum()) for label in labels)
        percentage = 100 * count / max(1, sum(label.valid.numel() for label in labels))
        if count:
            notes.append(
                f"{marker:g} ({count} pixels, {percentage:.1f} %) is 'no label', as in the "
                "training set"
            )
    if marker in (None, -1):
        return list(labels), notes
    return [
        label if label.coloured and marker in training.ids else label.without(marker)
        for label in labels
    ], notes


def _match_colours(training: TrainingClasses, file: Path, label: Label, snaps: bool) -> Label:
    """Return a label whose palette indices are replaced by the class ids of the training set.

    Args:
        training: classes of the training set.
        file: path of the label, for messages.
        label: label of palette indices.
        snaps: whether other values are replaced by the nearest class id.
    """
    if training.ids_are_colours:
        label = replace_indices_by_colours(label)
    else:
        label = _match_palette(training.palette, file, label)
    return snap(label, training.ids) if snaps else label


def _match_palette(training: Mapping[int, Colour], file: Path, label: Label) -> Label:
    """Return a label with the palette indices that its colours have in the training set.

    If the palettes have other colours, but do not contradict each other, the indices are kept.

    Args:
        training: colours by index in the training set, possibly none.
        file: path of the label, for messages.
        label: label of palette indices.

    Raises:
        InputError: if an index has the colour of another class, but not all colours are those of
            classes, or two classes have the same colour.
    """
    present = label.class_ids[label.valid].unique().tolist()
    index_of = {colour: index for index, colour in training.items()}
    own = {index: label.palette[index] for index in present if index in label.palette}
    is_unique = len(index_of) == len(training)
    if is_unique and len(own) == len(present) and index_of.keys() >= set(own.values()):
        return label.renumber({index: index_of[colour] for index, colour in own.items()})
    if any(colour in index_of and colour != training.get(index) for index, colour in own.items()):
        palettes: dict[int, tuple[Colour, Path | str]] = {
            index: (colour, "the training set") for index, colour in training.items()
        }
        if conflict := find_palette_conflict(palettes, file, label):
            raise InputError(conflict)
    return label
