"""What the values in the masks of a folder look like: classes, scribbles, or smoothed pictures."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffsight.datasets.class_lists import ClassList
from diffsight.datasets.labels import NO_CLASS, Label
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
FEWEST_EMPTY = 6  # nearly empty values of smoothed masks
SOLID = 0.5  # fraction of a class's pixels in blocks of 2 x 2


def count_ids(labels: Iterable[Label]) -> Counter[int]:
    """Return the number of pixels of every id, or of every colour."""
    counts: Counter[int] = Counter()
    for label in labels:
        ids, numbers = label.class_ids[label.valid].unique(return_counts=True)
        counts.update(dict(zip(ids.tolist(), numbers.tolist(), strict=True)))
        if label.boxes is not None:  # classes that no pixel is known to have
            counts.update(
                dict.fromkeys([label.boxes.background, *label.boxes.class_ids.tolist()], 0)
            )
    return counts


def meaning_of_255(labels: Sequence[Label], classes: ClassList) -> tuple[int, list[str]]:
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


def note_of_scribbles(labels: Sequence[Label]) -> list[str]:
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


def require_sharp(folder: Path, labels: Sequence[Label], counts: Mapping[int, int]) -> None:
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
