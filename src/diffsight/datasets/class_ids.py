"""Infer the meaning of the values in class masks from all masks of a folder together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from diffsight.datasets.class_lists import ClassList
from diffsight.datasets.labels import (
    NO_CLASS,
    Colour,
    Label,
    LabelFormat,
    unpack_colour,
)
from diffsight.datasets.mask_values import (
    count_ids,
    describe_scribbles,
    interpret_255,
    require_sharp,
    unify_white,
)
from diffsight.errors import InputError

FREQUENT = 0.01  # smallest fraction of pixels of a value that snapping keeps
SNAP_DISTANCE = 16  # values closer than this to a more frequent value are noise
MAX_NOISE = 0.05  # largest fraction of pixels of a value that is dropped as noise


@dataclass(frozen=True)
class Mask:
    """A class mask and its file.

    Attributes:
        file: path of the mask, for messages.
        label: contents of the mask.
    """

    file: Path
    label: Label


def interpret_masks(
    masks: Sequence[Mask], form: LabelFormat, classes: ClassList, path: Path
) -> tuple[list[Label], LabelFormat, list[str]]:
    """Decide what the values in the masks mean.

    This decides whether 255 means "no label", replaces palette indices by colours where palettes
    differ, and replaces every value by the nearest class value if ``form.snap`` is set.

    Args:
        masks: all masks of a folder. Unless ``form.invalid`` is given, they were read without a
            marker for "no label".
        form: format with which they were read.
        classes: class names, possibly none. If they are named by colour, palette indices are
            replaced by their colours. If they are named by id or position, many rare ids are not
            taken for a sign of smoothing.
        path: folder or file of all labels, for messages.

    Returns:
        The labels with their final values, the format with ``invalid`` filled in, and notes for the
        user.

    Raises:
        InputError: if palettes contradict each other, a file has no palette although colours are
            the classes, the masks are smoothed, or a mask has no labelled pixel.
    """
    files = [mask.file for mask in masks]
    labels, notes = unify_white(files, [mask.label for mask in masks], form)
    by_colour = classes.keys == "colour"
    by_id = len(classes) > 0 and not by_colour
    is_coloured = labels[0].coloured
    has_values = classes.keys != "position"
    if form.snap and not has_values:  # before 255 is interpreted, because noise affects that
        counts = count_ids(labels)
        frequent = _find_frequent_values(path, counts, is_coloured)
        labels, note = snap_all(labels, counts, sorted(frequent))
        notes.append(note)
    if form.invalid is None and not is_coloured:
        marker, reasons = interpret_255(labels, classes)
        form = replace(form, invalid=marker)
        if marker is not None:
            labels = [label.without(marker) for label in labels]
        notes += reasons
    if form.invalid in (None, -1, NO_CLASS) and not is_coloured:
        notes += describe_scribbles(labels)
    for mask, label in zip(masks, labels, strict=True):
        if not label.valid.any() and label.boxes is None:
            raise InputError(
                f"{mask.file}: no pixel has a label; check --kind and --invalid, or remove this "
                "file"
            )
    if not is_coloured and any(label.palette for label in labels):
        conflict = _find_first_conflict(files, labels)
        if conflict and by_id:
            raise InputError(conflict)
        if conflict:
            notes.append("palettes differ between the files: each palette colour is a class")
        if conflict or by_colour:
            _require_palettes(files, labels)
            labels = [replace_indices_by_colours(label) for label in labels]
            is_coloured = True
    if form.snap and has_values:
        labels, note = snap_all(labels, count_ids(labels), sorted(classes.names))
        notes.append(note)
    elif not form.snap and not by_id and not by_colour:
        require_sharp(path, labels, count_ids(labels))
    return labels, form, notes


def replace_indices_by_colours(label: Label) -> Label:
    """Return a label whose palette indices are replaced by the 24-bit numbers of their colours."""
    table = torch.zeros(int(label.class_ids.max()) + 1, dtype=torch.long)
    for index, (red, green, blue) in label.palette.items():
        if index < len(table):
            table[index] = red << 16 | green << 8 | blue
    return label.with_ids(table[label.class_ids], coloured=True)


def find_palette_conflict(
    palettes: dict[int, tuple[Colour, Path | str]], file: Path, label: Label
) -> str | None:
    """Return an error message if a file's palette contradicts that of an earlier file, else None.

    Args:
        palettes: colour of each palette index, with the first file that uses the index, or another
            text for messages. The colours of this file are added.
        file: path of the label.
        label: label of palette indices.
    """
    for index in label.class_ids[label.valid].unique().tolist():
        colour = label.palette.get(index)
        if colour is None:
            continue
        other, first = palettes.setdefault(index, (colour, file))
        if other != colour:
            return (
                f"{file}: id {index} is {format_colour(colour)}, but in {first} it is "
                f"{format_colour(other)}: save the files with one palette, or name the classes by "
                "their colours"
            )
    return None


def format_colour(colour: Colour | int) -> str:
    """Return a colour as ``#rrggbb``; the colour may be given as its 24-bit number."""
    red, green, blue = unpack_colour(colour) if isinstance(colour, int) else colour
    return f"#{red:02x}{green:02x}{blue:02x}"


def snap(label: Label, targets: Sequence[int]) -> Label:
    """Return the label with every id or colour replaced by the nearest allowed one.

    Args:
        label: class mask that was smoothed or compressed.
        targets: allowed class ids, or 24-bit numbers of colours.
    """
    ids, inverse = label.class_ids.unique(return_inverse=True)
    distances = _compute_distances(ids, targets, label.coloured)
    nearest = torch.tensor(targets)[distances.argmin(dim=1)]
    return label.with_ids(nearest[inverse], coloured=label.coloured)


def _compute_distances(ids: Tensor, targets: Sequence[int], coloured: bool) -> Tensor:
    """Return the distances ``i t`` of i ids to t targets; those of colours are in RGB space."""
    return torch.cdist(_to_points(ids, coloured), _to_points(torch.tensor(targets), coloured))


def _to_points(ids: Tensor, coloured: bool) -> Tensor:
    """Return ids as points ``i 1``, or colours as points ``i 3`` of RGB."""
    if not coloured:
        return ids[:, None].double()
    return torch.stack([ids >> 16, ids >> 8 & 255, ids & 255], dim=1).double()


def _require_palettes(files: Sequence[Path], labels: Sequence[Label]) -> None:
    """Raise an error if a mask has no palette, where the classes are colours of palettes."""
    for file, label in zip(files, labels, strict=True):
        if not label.palette:
            raise InputError(
                f"{file}: has no palette, but the classes are the colours of the other files' "
                "palettes: save it with a palette too"
            )


def _find_first_conflict(files: Sequence[Path], labels: Sequence[Label]) -> str | None:
    """Return the message of the first palette conflict between the files, or None."""
    palettes: dict[int, tuple[Colour, Path | str]] = {}
    pairs = zip(files, labels, strict=True)
    conflicts = (find_palette_conflict(palettes, file, label) for file, label in pairs)
    return next(filter(None, conflicts), None)


def _find_frequent_values(path: Path, counts: Mapping[int, int], coloured: bool) -> list[int]:
    """Return the frequent values of masks, without those near a more frequent value.

    Args:
        path: folder or file of the labels, for messages.
        counts: number of pixels by value.
        coloured: whether the values are colours.

    Raises:
        InputError: if two values are near each other, and both too frequent to be noise.
    """
    total = sum(counts.values())
    values = [value for value, count in counts.items() if count >= FREQUENT * total]
    values.sort(key=lambda value: -counts[value])
    near = _compute_distances(torch.tensor(values), values, coloured) <= SNAP_DISTANCE
    kept: list[int] = []
    for row, value in enumerate(values):
        if not near[row, kept].any():
            kept.append(row)
        elif counts[value] >= MAX_NOISE * total:
            pair = (value, next(values[other] for other in kept if near[row, other]))
            low, high = (format_colour(v) if coloured else str(v) for v in sorted(pair))
            raise InputError(
                f"{path}: {low} and {high} are both frequent, but too close to each other to "
                "snap to: remove --snap, or name the classes with --classes"
            )
    return [values[row] for row in kept]


def snap_all(
    labels: Sequence[Label], counts: Mapping[int, int], targets: Sequence[int]
) -> tuple[list[Label], str]:
    """Return labels with all values snapped to the targets, and a note on how many changed."""
    others = counts.keys() - set(targets)
    changed, total = sum(counts[value] for value in others), sum(counts.values())
    listed = ", ".join(format_colour(v) if labels[0].coloured else str(v) for v in targets)
    note = (
        f"{changed} pixels ({100 * changed / total:.1f} %) with {len(others)} other values were "
        f"snapped to the nearest of {listed}"
    )
    return [snap(label, targets) for label in labels], note


def select_classes(
    path: Path, counts: Mapping[int, int], classes: ClassList, coloured: bool
) -> tuple[list[int], list[str]]:
    """Return the ids and names of the classes.

    Only classes that occur in the labels are returned. The exception is a plain list of names for
    ids from 0 on, all of whose classes are returned.

    Args:
        path: folder or file of the labels, for messages.
        counts: number of pixels by id or colour.
        classes: class names, possibly none.
        coloured: whether the ids are colours.

    Raises:
        InputError: if a value has no name, or the number of names differs from the number of
            colours.
    """
    present = sorted(counts)
    if not len(classes):
        return present, [format_colour(n) if coloured else f"class {n}" for n in present]
    listed = list(classes.names.values())
    if classes.keys == "position":
        if coloured and len(listed) != len(present):
            raise InputError(
                f"{path}: {len(listed)} class names, but the labels contain {len(present)} "
                f"colours: {_format_counts(present, counts, coloured)}: give one name per colour, "
                "in this order"
            )
        is_rank = coloured or (len(listed) == len(present) and present[-1] == NO_CLASS)
        if is_rank:  # the position is the rank among colours, or among greys up to white
            return present, listed
    elif (classes.keys == "colour") != coloured:
        content = "colours" if coloured else "ids without a palette"
        raise InputError(
            f"{path}: contains {content}, but the classes are named by {classes.keys}: name "
            f"them by {'colour' if coloured else 'id'}"
        )
    if unnamed := [number for number in present if number not in classes.names]:
        kind = "colours" if coloured else "class ids"
        raise InputError(
            f"{path}: {len(listed)} class names, but the labels contain {kind} without a name: "
            f"{_format_counts(unnamed, counts, coloured)}: add names (one per id from 0 on), give "
            "no names at all, or mark an id as unlabelled with --invalid"
        )
    ids = present if classes.keys != "position" else list(classes.names)
    return ids, [classes.names[number] for number in ids]


def _format_counts(numbers: Sequence[int], counts: Mapping[int, int], coloured: bool) -> str:
    """Return ids or colours with their numbers of pixels, as ``3 (120 px), 7 (60 px)``."""
    format_number = format_colour if coloured else str
    return ", ".join(f"{format_number(number)} ({counts[number]} px)" for number in numbers)
