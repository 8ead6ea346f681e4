"""Match the names of images with the names of their labels."""

import difflib
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

MAX_COMPARED = 100  # names that the search for similar names compares at most


def pair_names(
    images: Sequence[str], labels: Sequence[str], *, is_one_folder: bool = False
) -> dict[str, str]:
    """Return the names of labels by the names of their images, without images that have none.

    Three rules are tried in this order: the names are equal; all labels have the same ending after
    the name of their image (``p0`` and ``p0_mask``); the last parts of the paths are equal.

    Args:
        images: names as ``files_by_name`` returns them.
        labels: names as ``files_by_name`` returns them.
        is_one_folder: whether images and labels are in the same folder. Then a label must have an
            ending, which must not begin with a letter or a digit.
    """
    label_names = set(labels)
    equal = {} if is_one_folder else {name: name for name in images if name in label_names}
    if equal:
        return equal
    ending = common_ending(images, labels, is_one_folder=is_one_folder)
    if ending:
        return {name: name + ending for name in images if name + ending in label_names}
    if is_one_folder:
        return {}
    by_last = {name.rpartition("/")[2]: name for name in labels}
    last = [name.rpartition("/")[2] for name in images]
    if len(by_last) < len(labels) or len(set(last)) < len(last):
        return {}  # ambiguous: files in two folders have the same last part
    return {
        name: by_last[short] for name, short in zip(images, last, strict=True) if short in by_last
    }


def common_ending(
    images: Sequence[str], labels: Sequence[str], *, is_one_folder: bool = False
) -> str:
    """Return the text, such as ``_mask``, that label names add to the names of their images.

    Unless ``is_one_folder``, all labels must have this ending. In one folder, some files are images
    without a label. There it is the most frequent ending with a letter or, if there is none, the
    most frequent ending without (``p1_2`` after ``p1`` is often another image).

    No ending begins inside a number: ``frame_10_mask`` is never a label of ``frame_1``. If a label
    fits several images, it belongs to the one with the longest name that has no other label.

    Args:
        images: names of the images. If ``is_one_folder``, the names of the labels are among them.
        labels: names of the labels.
        is_one_folder: whether images and labels are in the same folder.

    Returns:
        The ending, or an empty text if there is none.
    """
    image_names, label_names = set(images), set(labels)
    counts = Counter[str]()
    for label in labels:
        longer: list[str] = []  # image names with which the label begins, the longest first
        for length in range(len(label) - 1, 0, -1):
            name, ending = label[:length], label[length:]
            if name not in image_names:
                continue
            is_free = all(other + ending in label_names for other in longer)
            if is_free and _can_follow(name, ending, is_one_folder):
                counts[ending] += 1
            longer.append(name)
    endings = [one for one, count in counts.items() if is_one_folder or count == len(labels)]
    return max(
        endings, key=lambda one: (any(map(str.isalpha, one)), counts[one], -len(one)), default=""
    )


def _can_follow(name: str, ending: str, is_one_folder: bool) -> bool:
    """Return whether an ending may follow the name of an image; it must not continue a number."""
    if is_one_folder:
        return not ending[0].isalnum()
    return not (name[-1].isdigit() and ending[0].isdigit())


def suggest_similar_name(
    images: Mapping[str, Path], labels: Mapping[str, Path], names: Mapping[str, str]
) -> str:
    """Return a hint on an unmatched image and label with similar names; empty if there are none.

    Args:
        images: image files by name.
        labels: label files by name.
        names: name of the label of every matched image.
    """
    used = set(names.values())
    unmatched = [name for name in labels if name not in used][:MAX_COMPARED]
    for name, image in itertools.islice(images.items(), MAX_COMPARED):
        if name not in names and (near := difflib.get_close_matches(name, unmatched, n=1)):
            return f" ({labels[near[0]].name} looks like {image.name})"
    return ""
