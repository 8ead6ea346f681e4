"""What the numbers in class masks mean, which only all masks of a folder show together."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffsight.datasets.class_lists import ClassList
from diffsight.datasets.labels import HIGHEST_ID, NO_CLASS, Colour, Label, LabelFormat, colour_of
from diffsight.errors import InputError

MAX_CLASSES = 1024
# shades of grey that people draw with are few and far apart; ids are neighbours
MOST_SHADES = 16
LEAST_GAP = 16
LARGE_AREA = 0.5
MOST_BORDER = 0.2  # fraction of pixels that touch the value around them, in areas
WIDEST_STROKE = 0.02  # of the shorter side, on the average
MOST_OF_IMAGE = 0.8  # that a value around strokes fills, if it may be "no label"
NEARLY_EMPTY = 0.005
FREQUENT = 0.01
SNAP_DISTANCE = 16  # between two values that are classes
MOST_NOISE = 0.05  # fraction of the pixels of a neighbour that is dropped
FEWEST_EMPTY = 6  # nearly empty values of smoothed masks
SOLID = 0.5  # fraction of a class's pixels in blocks of 2 x 2


@dataclass(frozen=True)
class Mask:
    """A class mask and the file it is from."""

    file: Path
    label: Label


def settle(
    masks: Sequence[Mask], form: LabelFormat, classes: ClassList
) -> tuple[list[Label], LabelFormat, list[str]]:
    """Return the labels with what their numbers mean, the format as it was read, and notes.

    Args:
        masks: all masks of a folder, read with nothing marked as "no label" unless ``form`` says.
        form: how they were read.
        classes: that were named. By colour, the colours of palettes count, not their indices. By id
            or position, many rare ids are no mistake.

    Raises:
        InputError: if palettes contradict each other, or the masks are smoothed.
    """
    labels = [mask.label for mask in masks]
    by_colour = classes.keys == "colour"
    vouched = len(classes) > 0 and not by_colour
    notes: list[str] = []
    is_coloured, folder = labels[0].coloured, masks[0].file.parent
    has_values = classes.keys != "position"
    if form.snap and not has_values:  # before 255 is understood, which noise would hide
        counts = count_ids(labels)
        labels, note = _snapped(labels, counts, sorted(_frequent(folder, counts, is_coloured)))
        notes.append(note)
    if form.invalid is None and not is_coloured:
        marker, reasons = _meaning_of_255(labels, classes)
        form = replace(form, invalid=marker)
        labels = [label.without(marker) for label in labels]
        notes += reasons
    if form.invalid in (-1, NO_CLASS) and not is_coloured:
        notes += _note_of_scribbles(labels)
    for mask, label in zip(masks, labels, strict=True):
        if not label.valid.any():
            raise InputError(
                f"{mask.file}: no pixel has a label; check --kind and --invalid, or leave this "
                "file out"
            )
    if not is_coloured and all(label.palette for label in labels):
        files = [mask.file for mask in masks]
        conflict = _palette_conflict(files, labels)
        if conflict and vouched:
            raise InputError(conflict)
        if conflict:
            notes.append("palettes differ between the files: their colours are the classes")
        if conflict or by_colour:
            labels = [palette_colours(label) for label in labels]
            is_coloured = True
    if form.snap and has_values:
        labels, note = _snapped(labels, count_ids(labels), sorted(classes.names))
        notes.append(note)
    elif not form.snap and not vouched and not by_colour:
        _require_sharp(folder, labels, count_ids(labels))
    return labels, form, notes


def count_ids(labels: Iterable[Label]) -> Counter[int]:
    """Return the number of pixels of every id, or of every colour."""
    counts: Counter[int] = Counter()
    for label in labels:
        ids, numbers = label.class_ids[label.valid].unique(return_counts=True)
        counts.update(dict(zip(ids.tolist(), numbers.tolist(), strict=True)))
    return counts


def palette_colours(label: Label) -> Label:
    """Return a label of a palette's indices with their colours as ids."""
    table = torch.zeros(int(label.class_ids.max()) + 1, dtype=torch.long)
    for index, (red, green, blue) in label.palette.items():
        if index < len(table):
            table[index] = red << 16 | green << 8 | blue
    return label.with_ids(table[label.class_ids], coloured=True)


def check_palette(known: dict[int, tuple[Colour, Path]], file: Path, label: Label) -> str | None:
    """Add a file's palette to what is known, or return how it contradicts another file's."""
    for index in label.class_ids[label.valid].unique().tolist():
        colour = label.palette.get(index)
        if colour is None:
            continue
        other, first = known.setdefault(index, (colour, file))
        if other != colour:
            return (
                f"{file}: id {index} is {hex_colour(colour)}, but in {first} it is "
                f"{hex_colour(other)}: save the files with one palette, or name the classes by "
                "their colours"
            )
    return None


def hex_colour(colour: Colour | int) -> str:
    """Return a colour, or its 24-bit number, as ``#rrggbb``."""
    red, green, blue = colour_of(colour) if isinstance(colour, int) else colour
    return f"#{red:02x}{green:02x}{blue:02x}"


def snap(label: Label, targets: Sequence[int]) -> Label:
    """Return the label with the nearest of the targets for every id or colour."""
    ids, inverse = label.class_ids.unique(return_inverse=True)
    nearest = torch.tensor(targets)[_distances(ids, targets, label.coloured).argmin(dim=1)]
    return label.with_ids(nearest[inverse], coloured=label.coloured)


def _distances(ids: Tensor, targets: Sequence[int], coloured: bool) -> Tensor:
    """Return the distance of every id to every target: of colours that in the cube of RGB."""
    return torch.cdist(_points(ids, coloured), _points(torch.tensor(targets), coloured))


def _points(ids: Tensor, coloured: bool) -> Tensor:
    if not coloured:
        return ids[:, None].double()
    return torch.stack([ids >> 16, ids >> 8 & 255, ids & 255], dim=1).double()


def _palette_conflict(files: Sequence[Path], labels: Sequence[Label]) -> str | None:
    known: dict[int, tuple[Colour, Path]] = {}
    pairs = zip(files, labels, strict=True)
    return next(filter(None, (check_palette(known, file, label) for file, label in pairs)), None)


def _meaning_of_255(labels: Sequence[Label], classes: ClassList) -> tuple[int, list[str]]:
    """Return the marker of "no label", -1 for none, and a note with the reason."""
    counts = count_ids(labels)
    white, whole = counts[NO_CLASS], sum(counts.values())
    if not white:
        return NO_CLASS, []
    others = sorted(set(counts) - {NO_CLASS})
    amount = f"255 ({white} pixels, {100 * white / whole:.1f} %)"
    values = np.array([value for value in [*others, NO_CLASS] if value <= NO_CLASS])
    is_large, is_around = white > LARGE_AREA * whole, _surrounds_strokes(labels, NO_CLASS)
    if classes.keys == "id" and NO_CLASS in classes.names:
        reason = f"it is named {classes.names[NO_CLASS]!r}"
    elif classes.keys == "id":
        return NO_CLASS, [f"{amount} is 'no label', because the classes are named without it"]
    elif len(others) < 2:
        reason = "there is one other value"
    elif is_large and is_around:
        return NO_CLASS, [
            f"{amount} is taken for 'no label', because it surrounds thin strokes: give --invalid "
            "-1 if it is a class"
        ]
    elif len(values) <= MOST_SHADES and np.diff(values).min() >= LEAST_GAP:
        reason = f"the files hold shades of grey, {', '.join(map(str, values))}"
    elif is_large:
        reason = "it fills more than half of the images"
    else:
        return NO_CLASS, [
            f"{amount} is taken for 'no label', as in most data sets: give --invalid -1 if it is "
            "a class"
        ]
    return -1, [f"{amount} is a class, because {reason}: give --invalid 255 if it is 'no label'"]


def _note_of_scribbles(labels: Sequence[Label]) -> list[str]:
    """Return a note where 0 is read as a class and surrounds thin strokes of others."""
    counts = count_ids(labels)
    empty, whole = counts[0], sum(counts.values())
    if len(counts) < 3 or empty < MOST_OF_IMAGE * whole or not _surrounds_strokes(labels, 0):
        return []
    return [
        f"0 ({100 * empty / whole:.1f} % of the pixels) is a class, and surrounds thin strokes: "
        "give --invalid 0 if it is 'no label'"
    ]


def _surrounds_strokes(labels: Sequence[Label], value: int) -> bool:
    """Return whether the pixels of other values are thin strokes on those of ``value``.

    The fraction of their pixels with ``value`` to the right or below is the reciprocal of the
    thickness of a straight stroke.
    """
    touching = count = side = 0
    for label in labels:
        around = label.valid & (label.class_ids == value)
        near = around.clone()
        near[:, :-1] |= around[:, 1:]
        near[:-1] |= around[1:]
        touching += int((near & ~around & label.valid).sum())
        count += int((label.valid & ~around).sum())
        side += min(around.shape)
    widest = max(1 / MOST_BORDER, WIDEST_STROKE * side / len(labels))
    return touching * widest >= max(count, 1)


def _require_sharp(folder: Path, labels: Sequence[Label], counts: Mapping[int, int]) -> None:
    """Refuse masks with many nearly empty values that lie along the borders of others."""
    whole = sum(counts.values())
    empty = [value for value, count in counts.items() if count < NEARLY_EMPTY * whole]
    if not FEWEST_EMPTY <= len(empty) <= MAX_CLASSES or 2 * len(empty) < len(counts):
        return
    pixels, solid = 0, 0
    rare = torch.tensor(empty)
    for label in labels:
        ids = label.class_ids
        pixels += int((torch.isin(ids, rare) & _touches_others(label)).sum())
        block = (ids[:-1, :-1] == ids[1:, :-1]) & (ids[:-1, :-1] == ids[:-1, 1:])
        block &= (ids[:-1, :-1] == ids[1:, 1:]) & label.valid[:-1, :-1]
        solid += int(torch.isin(ids[:-1, :-1][block], rare).sum())
    if solid < SOLID * pixels:
        raise InputError(
            f"{folder}: {len(counts)} values, {len(empty)} of them nearly empty: smoothed or "
            "compressed masks? Save them without smoothing, give --snap to take the nearest of the "
            "frequent values, or --classes if they are classes"
        )


def _touches_others(label: Label) -> Tensor:
    """Return the labelled pixels that have a labelled neighbour of another value."""
    ids, valid = label.class_ids, label.valid
    touches = torch.zeros_like(valid)
    for axis in (0, 1):
        size = ids.shape[axis] - 1
        one, other = ((ids.narrow(axis, i, size), valid.narrow(axis, i, size)) for i in range(2))
        differ = (one[0] != other[0]) & one[1] & other[1]
        touches.narrow(axis, 0, size).logical_or_(differ)
        touches.narrow(axis, 1, size).logical_or_(differ)
    return touches


def _frequent(folder: Path, counts: Mapping[int, int], coloured: bool) -> list[int]:
    """Return the values that many pixels have, without their neighbours.

    Raises:
        InputError: if two values of many pixels are neighbours.
    """
    whole = sum(counts.values())
    values = [value for value, count in counts.items() if count >= FREQUENT * whole]
    values.sort(key=lambda value: -counts[value])
    near = _distances(torch.tensor(values), values, coloured) <= SNAP_DISTANCE
    kept: list[int] = []
    for row, value in enumerate(values):
        if not near[row, kept].any():
            kept.append(row)
        elif counts[value] >= MOST_NOISE * whole:
            pair = (value, next(values[one] for one in kept if near[row, one]))
            one, other = (hex_colour(v) if coloured else str(v) for v in sorted(pair))
            raise InputError(
                f"{folder}: {one} and {other} are both frequent and too near each other to be "
                "snapped: leave --snap out, or name the classes with --classes"
            )
    return [values[row] for row in kept]


def _snapped(
    labels: Sequence[Label], counts: Mapping[int, int], targets: Sequence[int]
) -> tuple[list[Label], str]:
    """Return labels of the targets alone, and a note about the other values."""
    others = counts.keys() - set(targets)
    changed, whole = sum(counts[value] for value in others), sum(counts.values())
    listed = ", ".join(hex_colour(v) if labels[0].coloured else str(v) for v in targets)
    note = (
        f"{changed} pixels ({100 * changed / whole:.1f} %) of {len(others)} other values are taken "
        f"for the nearest of {listed}"
    )
    return [snap(label, targets) for label in labels], note


def named_ids(
    folder: Path, counts: Mapping[int, int], classes: ClassList, coloured: bool
) -> tuple[list[int], list[str]]:
    """Return the classes' ids and names: those that occur, or all of a list by position.

    Args:
        folder: of the labels, for messages.
        counts: pixels by the ids or colours that occur.
        classes: names, or none.
        coloured: the ids are colours.

    Raises:
        InputError: if names are missing, or are too many for the colours that occur.
    """
    present = sorted(counts)
    if not len(classes):
        return present, [hex_colour(n) if coloured else f"class {n}" for n in present]
    listed = list(classes.names.values())
    if classes.keys == "position":
        if coloured and len(listed) != len(present):
            raise InputError(
                f"{len(listed)} class names, but the labels hold {len(present)} colours: "
                f"{_amounts(present, counts, coloured)}: give a name for each, in this order"
            )
        is_rank = coloured or (len(listed) == len(present) and present[-1] == NO_CLASS)
        if is_rank:  # of colours, or shades of grey up to white
            return present, listed
    elif (classes.keys == "colour") != coloured:
        held = "colours" if coloured else "ids without a palette"
        raise InputError(f"{folder}: holds {held}, but the classes are named by {classes.keys}")
    if unnamed := [number for number in present if number not in classes.names]:
        kind = "colours" if coloured else "class ids"
        raise InputError(
            f"{len(listed)} class names, but the labels hold {kind} without one: "
            f"{_amounts(unnamed, counts, coloured)}: add names, one per id from 0 on, leave them "
            "all out, or mark the ids with --invalid"
        )
    ids = present if classes.keys != "position" else list(classes.names)
    return ids, [classes.names[number] for number in ids]


def as_ids_of(
    ids: Sequence[int],
    names: Sequence[str],
    file: Path,
    label: Label,
    form: LabelFormat,
    classes: ClassList | None,
) -> Label:
    """Return a label with the ids of other labels.

    Args:
        ids: of the others.
        names: of the others.
        file: of the label, for messages.
        label: read with nothing marked as "no label" unless ``form`` says.
        form: how it was read.
        classes: of the label, if it has names of its own, which decide.

    Raises:
        InputError: if it has a class that the others lack.
    """
    is_coloured = max(ids, default=0) > HIGHEST_ID
    if classes is not None:
        there = dict(zip(names, ids, strict=True))
        present = label.class_ids[label.valid].unique().tolist()
        for number in present:
            if classes.names[number] not in there:
                raise InputError(
                    f"{file}: holds class {classes.names[number]!r}, of which nothing is learned: "
                    f"the labelled images have {', '.join(names)}"
                )
        table = torch.zeros(max(present) + 1, dtype=torch.long)
        for number in present:
            table[number] = there[classes.names[number]]
        return label.with_ids(table[label.class_ids], coloured=is_coloured)
    if form.invalid is None and not label.coloured and NO_CLASS not in ids:
        label = label.without(NO_CLASS)
    if is_coloured and label.palette and not label.coloured:
        label = palette_colours(label)
    if form.snap:
        return snap(label, ids)
    present = label.class_ids[label.valid].unique()
    unknown = present[~torch.isin(present, torch.tensor(ids))].tolist()
    if unknown:
        known = ", ".join(hex_colour(number) if is_coloured else str(number) for number in ids)
        number = hex_colour(unknown[0]) if label.coloured else unknown[0]
        raise InputError(
            f"{file}: holds class {number}, of which nothing is learned: the labelled images have "
            f"{known}"
        )
    return label


def _amounts(numbers: Sequence[int], counts: Mapping[int, int], coloured: bool) -> str:
    form = hex_colour if coloured else str
    return ", ".join(f"{form(number)} ({counts[number]} px)" for number in numbers)
