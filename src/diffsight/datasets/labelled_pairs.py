"""Read pairs of an image and its label, in one form for the whole folder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from diffsight.datasets.base import Sample
from diffsight.datasets.files import read_image
from diffsight.datasets.label_source import AbstractLabelSource
from diffsight.datasets.labels import Label, LabelFormat
from diffsight.errors import InputError
from diffsight.types import Boxes


@dataclass(frozen=True)
class LabelledPair:
    """An image and its label, with the values that are stored in the label file.

    Attributes:
        id: hash of the image file.
        image: upright image.
        label: label of the image.
        file: file of the label.
        name: name of the label in its source.
    """

    id: str
    image: UInt8[Tensor, "3 h w"]
    label: Label
    file: Path
    name: str

    def to_sample(self, name: str, value: Tensor, boxes: Boxes | None = None) -> Sample:
        """Return the sample with ``value`` as its label ``name``."""
        valid = {name: self.label.valid}
        return Sample(self.id, self.image, {name: value}, valid, boxes=boxes)


def read_pair(
    digest: str, image_file: Path, source: AbstractLabelSource, name: str, form: LabelFormat
) -> LabelledPair:
    """Return an image with its label.

    Args:
        digest: hash of the image file.
        image_file: path of the image.
        source: source of the label.
        name: name of the label in the source.
        form: format with which the label is read.

    Raises:
        InputError: if a file cannot be read, or image and label differ in size.
    """
    image, file = read_image(image_file), source.file(name)
    label = source.read(name, form, (image.shape[-2], image.shape[-1]))
    if label.valid.shape != image.shape[-2:]:
        (rows, columns), (height, width) = label.valid.shape, image.shape[-2:]
        raise InputError(
            f"{file}: a label of {columns} x {rows} pixels for an image ({image_file}) of "
            f"{width} x {height}: give both the same size, upright as the image is shown"
        )
    return LabelledPair(digest, image, label, file, name)


def unify_form(
    pairs: Sequence[LabelledPair],
    source: AbstractLabelSource,
    form: LabelFormat,
    *,
    coloured: bool | None = None,
) -> list[LabelledPair]:
    """Return the pairs with class masks in one form, if the meaning of transparency decides it.

    A mask of one colour may be a mask of ids in the transparency, or a mask of colours with one
    class. One file alone does not show which; the other files do.

    Args:
        pairs: all pairs of a folder.
        source: source of their labels.
        form: format with which they were read.
        coloured: whether the classes are known to be colours, or ids; None if that is unknown.
    """
    pairs = list(pairs)

    def has_one_form(some: Sequence[LabelledPair]) -> bool:
        labels = [pair.label for pair in some]
        # the indices of a palette may stand for ids or for colours
        forms = {one.coloured for one in labels if one.coloured or not one.palette}
        return len(forms | ({coloured} if coloured is not None else set())) < 2

    if has_one_form(pairs):
        return pairs
    other_ids = [pair.label for pair in pairs if not pair.label.coloured]
    # if the transparency differs within a file, its colour is not all that the file contains
    is_constant = all(len(label.class_ids[label.valid].unique()) < 2 for label in other_ids)
    for uses_alpha in (True, False) if is_constant else (True,):
        other = replace(form, uses_alpha=uses_alpha)
        again = [replace(pair, label=source.read(pair.name, other, _hw(pair))) for pair in pairs]
        has_colours = coloured or any(len(one.label.class_ids.unique()) > 1 for one in again)
        if has_one_form(again) and (uses_alpha or has_colours):
            return again
    return pairs


def require_one_form(pairs: Sequence[LabelledPair]) -> None:
    """Raise an error if some masks contain ids and others colours.

    Raises:
        InputError: naming a file of each form.
    """
    first = pairs[0]
    for pair in pairs:
        if pair.label.coloured != first.label.coloured:
            contents = ("one channel of ids", "colours")
            raise InputError(
                f"{pair.file}: contains {contents[pair.label.coloured]}, but {first.file} contains "
                f"{contents[first.label.coloured]}: store all labels in the same form"
            )


def _hw(pair: LabelledPair) -> tuple[int, int]:
    """Return height and width of the image in pixels."""
    return pair.image.shape[-2], pair.image.shape[-1]
