"""The few labelled images of a new task."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

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


MOST_CLASSES = 1024


@dataclass(frozen=True)
class Example:
    """One labelled image.

    Attributes:
        id: SHA-256 of the image file.
        image: RGB.
        value: label in the unit of the task; for classes their places in ``Support.ids``.
        valid: where there is a label.
    """

    id: str
    image: UInt8[Tensor, "3 h w"]
    value: Float[Tensor, "d h w"]
    valid: Bool[Tensor, "h w"]


@dataclass(frozen=True)
class Support:
    """Labelled images, ordered by their content.

    Attributes:
        form: how their labels were read.
        examples: the images.
        ids: of the classes, as the files have them; empty for other kinds.
        names: of the classes.
        colours: of the classes.
    """

    form: LabelFormat
    examples: tuple[Example, ...]
    ids: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()

    @property
    def ids_are_colours(self) -> bool:
        """Whether every class id is the 24-bit number of its colour."""
        return self.ids == tuple(r << 16 | g << 8 | b for r, g, b in self.colours)

    def values(self, most: int = 200_000) -> Float[Tensor, "m d"]:
        """Labels of valid pixels, as many of every image, drawn without order.

        Args:
            most: of all images together.
        """
        share = max(1, most // len(self.examples))
        rows, generator = [], torch.Generator().manual_seed(0)
        for example in self.examples:
            flat = example.value.movedim(0, -1)[example.valid]
            if len(flat) > share:
                flat = flat[torch.randperm(len(flat), generator=generator)[:share]]
            rows.append(flat)
        return torch.cat(rows)


def read_support(
    images: Path,
    labels: Path,
    form: LabelFormat,
    *,
    classes: Sequence[str] = (),
    shots: int | None = None,
    like: Support | None = None,
) -> Support:
    """Images and labels of the same names, or the first of them in the order of their content.

    Args:
        images: folder.
        labels: folder.
        form: how labels are read.
        classes: names of the class ids from 0 on, or of the colours in the order of their 24-bit
            numbers; without them the ids that occur are the classes.
        shots: how many; default: all.
        like: a support whose classes these labels have, or some of them.

    Raises:
        InputError: if files do not fit together, are fewer than ``shots``, or hold classes without
            a name, or that ``like`` does not have; if two classes have the same name.
    """
    if shots is not None and shots < 1:
        raise InputError(f"{shots} shots: there is nothing to learn from: ask for 1 or more")
    for name, count in Counter(classes).items():
        if count > 1:
            raise InputError(f"{count} classes are named {name!r}: give each a name of its own")
    pairs = match_names(images, labels, LABEL_SUFFIXES, "label")
    if shots is not None and len(pairs) < shots:
        raise InputError(
            f"{images}: {len(pairs)} labelled image(s), but {shots} shots are asked for: add "
            f"images, or give --shots {len(pairs)}"
        )
    # copies of an image are in the order of their labels' content, not of their names
    ordered = sorted((*map(content_hash, pair), *pair) for pair in pairs)[:shots]
    read = [(digest, *_pair(image, label, form)) for digest, _, image, label in ordered]
    files = [label for *_, label in ordered]
    examples = tuple(
        Example(digest, image, label.value, label.valid) for digest, image, label in read
    )
    if form.kind != "segmentation":
        _same_channels(examples, files)
        if like is not None and len(examples[0].value) != len(like.examples[0].value):
            raise InputError(
                f"{labels}: {len(examples[0].value)} channels, but the labels that are learned "
                f"from have {len(like.examples[0].value)}"
            )
        return Support(form, examples)
    if like is not None:
        return _of_classes(like, examples, files)
    found = {file: label for file, (*_, label) in zip(files, read, strict=True)}
    return _classified(form, examples, found, classes)


def _pair(image_file: Path, label_file: Path, form: LabelFormat) -> tuple[Tensor, Label]:
    image, label = read_image(image_file), read_label(label_file, form)
    if label.valid.shape != image.shape[-2:]:
        (rows, columns), (height, width) = label.valid.shape, image.shape[-2:]
        raise InputError(
            f"{label_file}: a label of {columns} x {rows} pixels for an image ({image_file}) of "
            f"{width} x {height}: give both the same size, upright as the image is shown"
        )
    return image, label


def _same_channels(examples: Sequence[Example], files: Sequence[Path]) -> None:
    for example, file in zip(examples, files, strict=True):
        if len(example.value) != len(examples[0].value):
            raise InputError(
                f"{file}: {len(example.value)} channels, but {files[0]} has "
                f"{len(examples[0].value)}: labels of one task have the same number"
            )


def _classified(
    form: LabelFormat,
    examples: Sequence[Example],
    labels: Mapping[Path, Label],
    names: Sequence[str],
) -> Support:
    counts: Counter[int] = Counter()
    palette: dict[int, Colour] = {}
    first, *_ = labels
    coloured = labels[first].coloured  # ids that are colours have no order
    for path, label in labels.items():
        if label.coloured != coloured:
            what = ("one channel of ids", "colours")
            raise InputError(
                f"{path}: holds {what[label.coloured]}, but {first} holds {what[coloured]}: give "
                "all labels one form"
            )
        ids, numbers = label.value[0][label.valid].long().unique(return_counts=True)
        counts.update(dict(zip(ids.tolist(), numbers.tolist(), strict=True)))
        palette |= label.palette
    ids = _class_ids(counts, names, coloured)
    folder = first.parent
    if len(counts) < 2:
        hidden = 0 if coloured else _hidden(labels, form)
        reason = "there is nothing to tell apart, check --kind and the labels"
        if hidden:
            reason = (
                f"{hidden} pixels of {NO_CLASS} are taken for 'no label', give --invalid -1 if "
                "they are a class"
            )
        raise InputError(f"{folder}: every label pixel is of class {next(iter(counts))}: {reason}")
    if len(ids) > MOST_CLASSES:
        raise InputError(
            f"{folder}: {len(ids)} different numbers are no classes (depth, or another map of "
            "numbers?): check --kind"
        )
    if not names:
        names = [_name(number, coloured) for number in ids]
    colours = [palette.get(n, COLOURS[i % len(COLOURS)]) for i, n in enumerate(ids)]
    moved = tuple(_placed(example, ids) for example in examples)
    return Support(form, moved, tuple(ids), tuple(names), tuple(colours))


def _class_ids(counts: Mapping[int, int], names: Sequence[str], coloured: bool) -> list[int]:
    """Those that occur, or those that have a name."""
    found = sorted(counts)
    if coloured and len(names) not in (0, len(found)):
        listed = ", ".join(f"{_name(number, True)} ({counts[number]} px)" for number in found)
        raise InputError(
            f"{len(names)} class names, but the labels hold {len(found)} colours: {listed}: give "
            "a name for each, in this order"
        )
    if coloured or not names:
        return found
    bare = ", ".join(f"{number} ({counts[number]} px)" for number in found if number >= len(names))
    if bare:
        raise InputError(
            f"{len(names)} class names, but the labels hold class ids without one: {bare}: add "
            "names, one per id from 0 on, leave them all out, or mark the ids with --invalid"
        )
    return list(range(len(names)))


def _hidden(labels: Iterable[Path], form: LabelFormat) -> int:
    """Pixels that are left out for the default marker alone."""
    if form.invalid is not None:
        return 0
    whole = replace(form, invalid=-1)
    return sum(int((read_label(path, whole).value == NO_CLASS).sum()) for path in labels)


def _of_classes(like: Support, examples: Sequence[Example], files: Sequence[Path]) -> Support:
    """The examples with the classes of another support."""
    for example, file in zip(examples, files, strict=True):
        found = example.value[0][example.valid].long().unique()
        unknown = found[~torch.isin(found, torch.tensor(like.ids))].tolist()
        if unknown:
            raise InputError(
                f"{file}: holds class {unknown[0]}, of which nothing is learned: the labelled "
                f"images have {', '.join(map(str, like.ids))}"
            )
    return replace(like, examples=tuple(_placed(example, like.ids) for example in examples))


def _placed(example: Example, ids: Sequence[int]) -> Example:
    """With the places of the class ids instead of them."""
    places = torch.searchsorted(torch.tensor(ids), example.value.long().contiguous())
    return replace(example, value=places.float() * example.valid)


def _name(number: int, coloured: bool) -> str:
    return f"#{number:06x}" if coloured else f"class {number}"
