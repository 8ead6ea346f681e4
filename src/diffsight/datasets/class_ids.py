"""What the numbers in class masks mean, which only all masks of a folder show together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from diffsight.datasets.class_lists import ClassList
from diffsight.datasets.labels import HIGHEST_ID, NO_CLASS, Colour, Label, LabelFormat, colour_of
from diffsight.datasets.mask_values import (
    count_ids,
    meaning_of_255,
    note_of_scribbles,
    require_sharp,
)
from diffsight.errors import InputError

FREQUENT = 0.01
SNAP_DISTANCE = 16  # between two values that are classes
MOST_NOISE = 0.05  # fraction of the pixels of a neighbour that is dropped


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
        marker, reasons = meaning_of_255(labels, classes)
        form = replace(form, invalid=marker)
        labels = [label.without(marker) for label in labels]
        notes += reasons
    if form.invalid in (-1, NO_CLASS) and not is_coloured:
        notes += note_of_scribbles(labels)
    for mask, label in zip(masks, labels, strict=True):
        if not label.valid.any() and label.boxes is None:
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
        require_sharp(folder, labels, count_ids(labels))
    return labels, form, notes


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
        present = list(count_ids([label]))
        for number in present:
            if classes.names[number] not in there:
                raise InputError(
                    f"{file}: holds class {classes.names[number]!r}, of which nothing is learned: "
                    f"the labelled images have {', '.join(names)}"
                )
        table = torch.zeros(max(present) + 1, dtype=torch.long)
        for number in present:
            table[number] = there[classes.names[number]]
        if boxes := label.boxes:
            numbers = table[boxes.class_ids], int(table[boxes.background])
            label = replace(
                label, boxes=replace(boxes, class_ids=numbers[0], background=numbers[1])
            )
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
