"""Interpret the values in the masks of a folder: classes, "no label", scribbles or smoothing."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffsight.datasets.class_lists import ClassList
from diffsight.datasets.labels import NO_CLASS, Label, LabelFormat
from diffsight.errors import InputError

MAX_CLASSES = 1024
# values are grey levels, not consecutive class ids, if they are few and far apart
MAX_SHADES = 16
MIN_SHADE_GAP = 16
LARGE_FRACTION = 0.5  # of all pixels; a value with more pixels is large
# largest fraction of an area's pixels that touch the value around it; strokes have more
MAX_BORDER_FRACTION = 0.2
MAX_STROKE_WIDTH = 0.02  # mean width of strokes, as a fraction of the image's shorter side
MIN_SURROUNDING_FRACTION = 0.8  # of all pixels, for a value around strokes that may be "no label"
RARE_FRACTION = 0.005  # of all pixels; a value with fewer pixels is rare
MIN_RARE_VALUES = 6  # masks with fewer rare values are not taken for smoothed ones
# 2 x 2 blocks of equal pixels per border pixel, of all rare values; smoothed masks have fewer
MIN_SOLID_FRACTION = 0.5


def count_ids(labels: Iterable[Label]) -> Counter[int]:
    """Return the number of labelled pixels by class id, or by the 24-bit number of a colour.

    Classes that only occur in boxes are included with the number 0.
    """
    counts: Counter[int] = Counter()
    for label in labels:
        ids, numbers = label.class_ids[label.valid].unique(return_counts=True)
        counts.update(dict(zip(ids.tolist(), numbers.tolist(), strict=True)))
        if label.boxes is not None:  # their classes may have no labelled pixel
            counts.update(
                dict.fromkeys([label.boxes.background, *label.boxes.class_ids.tolist()], 0)
            )
    return counts


def unify_white(
    files: Sequence[Path], labels: Sequence[Label], form: LabelFormat, *, is_255: bool = False
) -> tuple[list[Label], list[str]]:
    """Return masks in which white has one value, and notes for the user.

    White is 1 in a file of one bit per pixel. It becomes 255 if another file contains 255.

    Args:
        files: paths of the masks, for messages.
        labels: all masks of the folder.
        form: format with which they were read.
        is_255: whether white is 255, even if no other file contains it.

    Raises:
        InputError: if white must become 255, but another file contains 1 too.
    """
    bilevel = [file for file, label in zip(files, labels, strict=True) if label.is_bilevel]
    others = [
        (file, label)
        for file, label in zip(files, labels, strict=True)
        if not (label.is_bilevel or label.coloured or label.palette)
    ]

    def find_value(value: int) -> Path | None:
        return next((file for file, one in others if _contains(one, value, form)), None)

    white = find_value(NO_CLASS)
    if not bilevel or (white is None and not is_255):
        return list(labels), []
    if one := find_value(1):
        raise InputError(
            f"{bilevel[0]}: has one bit per pixel, in which 1 is white, but {one} contains 1 and "
            f"{white or 'the training set'} contains 255: store all masks with the same values"
        )
    unified = [_whiten(label, form) if label.is_bilevel else label for label in labels]
    return unified, [
        f"white is 255, also in {len(bilevel)} mask(s) of one bit per pixel (first: {bilevel[0]})"
    ]


def _contains(label: Label, value: int, form: LabelFormat) -> bool:
    """Return whether a mask contains a value; ``form.invalid`` is a value without a label."""
    if value == form.invalid:
        return not bool(label.valid.all())
    return bool((label.valid & (label.class_ids == value)).any())


def _whiten(label: Label, form: LabelFormat) -> Label:
    """Return a mask of one bit per pixel with 255 instead of 1."""
    label = replace(label.renumber({0: 0, 1: NO_CLASS}), is_bilevel=False)
    return label if form.invalid is None else label.without(form.invalid)


def interpret_255(labels: Sequence[Label], classes: ClassList) -> tuple[int | None, list[str]]:
    """Decide whether 255 means "no label" in the masks of a folder.

    Args:
        labels: all masks of the folder.
        classes: class names, possibly none.

    Returns:
        The value that means "no label" (255, -1 if 255 is a class, or None if no mask contains
        it), and notes with the reason.
    """
    counts = count_ids(labels)
    white, total = counts[NO_CLASS], sum(counts.values())
    if not white:
        return None, []
    others = sorted(set(counts) - {NO_CLASS})
    amount = f"255 ({white} pixels, {100 * white / total:.1f} %)"
    values = np.array([value for value in [*others, NO_CLASS] if value <= NO_CLASS])
    is_large, is_around = white > LARGE_FRACTION * total, _surrounds_strokes(labels, NO_CLASS)
    if classes.keys == "id" and NO_CLASS in classes.names:
        reason = f"it is named {classes.names[NO_CLASS]!r}"
    elif classes.keys == "id":
        return NO_CLASS, [
            f"{amount} is 'no label', because the list of classes does not contain it"
        ]
    elif len(others) < 2:
        reason = "there is one other value"
    elif is_large and is_around:
        return NO_CLASS, [
            f"{amount} is taken for 'no label', because it surrounds thin strokes: give --invalid "
            "-1 if it is a class"
        ]
    elif len(values) <= MAX_SHADES and np.diff(values).min() >= MIN_SHADE_GAP:
        reason = f"the files hold shades of grey, {', '.join(map(str, values))}"
    elif is_large:
        reason = "it fills more than half of the images"
    else:
        return NO_CLASS, [
            f"{amount} is taken for 'no label', as in most data sets: give --invalid -1 if it is "
            "a class"
        ]
    return -1, [f"{amount} is a class, because {reason}: give --invalid 255 if it is 'no label'"]


def describe_scribbles(labels: Sequence[Label]) -> list[str]:
    """Return a note if 0 is read as a class but surrounds thin strokes of other classes."""
    counts = count_ids(labels)
    zeros, total = counts[0], sum(counts.values())
    if (
        len(counts) < 3
        or zeros < MIN_SURROUNDING_FRACTION * total
        or not _surrounds_strokes(labels, 0)
    ):
        return []
    return [
        f"0 ({100 * zeros / total:.1f} % of the pixels) is a class, and surrounds thin strokes: "
        "give --invalid 0 if it is 'no label'"
    ]


def _surrounds_strokes(labels: Sequence[Label], value: int) -> bool:
    """Return whether the pixels of all other values form thin strokes on an area of ``value``.

    In a straight stroke, the fraction of pixels with ``value`` to the right or below is the
    reciprocal of the stroke's width.
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
    max_width = max(1 / MAX_BORDER_FRACTION, MAX_STROKE_WIDTH * side / len(labels))
    return touching * max_width >= max(count, 1)


def require_sharp(path: Path, labels: Sequence[Label], counts: Mapping[int, int]) -> None:
    """Raise an error if masks look smoothed or compressed.

    Such masks have many rare values, most of whose pixels lie along the borders of other values.

    Args:
        path: folder or file of the labels, for messages.
        labels: all masks of the folder.
        counts: number of pixels by value.

    Raises:
        InputError: if the masks look smoothed or compressed.
    """
    total = sum(counts.values())
    rare_values = [value for value, count in counts.items() if count < RARE_FRACTION * total]
    if not MIN_RARE_VALUES <= len(rare_values) <= MAX_CLASSES:
        return
    if 2 * len(rare_values) < len(counts):
        return
    pixels, solid = 0, 0
    rare = torch.tensor(rare_values)
    for label in labels:
        ids = label.class_ids
        pixels += int((torch.isin(ids, rare) & _touches_others(label)).sum())
        block = (ids[:-1, :-1] == ids[1:, :-1]) & (ids[:-1, :-1] == ids[:-1, 1:])
        block &= (ids[:-1, :-1] == ids[1:, 1:]) & label.valid[:-1, :-1]
        solid += int(torch.isin(ids[:-1, :-1][block], rare).sum())
    if solid < MIN_SOLID_FRACTION * pixels:
        raise InputError(
            f"{path}: {len(counts)} values, {len(rare_values)} of them nearly empty: smoothed or "
            "compressed masks? Save them without smoothing, give --snap to take the nearest of the "
            "frequent values, or --classes if they are classes"
        )


def _touches_others(label: Label) -> Tensor:
    """Return a mask of the labelled pixels with a labelled neighbour of another value."""
    ids, valid = label.class_ids, label.valid
    touches = torch.zeros_like(valid)
    for axis in (0, 1):
        size = ids.shape[axis] - 1
        one, other = ((ids.narrow(axis, i, size), valid.narrow(axis, i, size)) for i in range(2))
        differ = (one[0] != other[0]) & one[1] & other[1]
        touches.narrow(axis, 0, size).logical_or_(differ)
        touches.narrow(axis, 1, size).logical_or_(differ)
    return touches
