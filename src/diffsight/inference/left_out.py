"""Find files in a folder of photographs that must be skipped: unreadable types, and labels."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from diffsight.datasets.files import UNSUPPORTED_SUFFIXES, decode
from diffsight.datasets.labels import LOSSY_SUFFIXES
from diffsight.datasets.pairs import name_of
from diffsight.errors import InputError

LISTED = 3  # names of files in a message
MAX_VALUES = 64  # different values of a class mask
_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "PPM", "WEBP", "JPEG")


def describe_unreadable_files(files: Sequence[Path]) -> str:
    """Return a description of the photographs whose file type cannot be read; empty if none.

    Args:
        files: files of any type.
    """
    unreadable = [file for file in files if file.suffix.lower() in UNSUPPORTED_SUFFIXES]
    if not unreadable:
        return ""
    repair = UNSUPPORTED_SUFFIXES[unreadable[0].suffix.lower()]
    return describe_files(unreadable, "file of an unreadable type", f": {repair}")


def describe_files(files: Collection[Path], noun: str, repair: str = "") -> str:
    """Return the number of files and the first names, such as ``2 labels (a.png, b.png)``.

    Args:
        files: files to describe.
        noun: singular noun; an ``s`` is added to its first word if there are several files.
        repair: text after the names.
    """
    first, *rest = noun.split(" ")
    noun = " ".join([first if len(files) == 1 else f"{first}s", *rest])
    listed = ", ".join(file.name for file in sorted(files)[:LISTED])
    more = ", ..." if len(files) > LISTED else ""
    return f"{len(files)} {noun} ({listed}{more}{repair})"


def find_label_images(images: Sequence[Path]) -> frozenset[Path]:
    """Return the images that are labels of other images: masks, or depth maps in the same folder.

    A label has the name of a photograph, possibly with an ending (``p0.jpg`` and ``p0_mask.png``),
    and contains few different values. A name alone is not enough.

    Args:
        images: image files.
    """
    by_name: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        by_name[name_of(Path(image.name))].append(image)
    labels: set[Path] = set()
    for image in images:
        if image.suffix.lower() in LOSSY_SUFFIXES:
            continue
        partners = [one for one in _find_partners(image, by_name) if one not in labels]
        if partners and _is_label(image, any(one.parent == image.parent for one in partners)):
            photographs = (one for one in partners if not _is_label(one, True))
            labels.update([image] if next(photographs, None) else [])
    return frozenset(labels)


def _find_partners(image: Path, by_name: dict[str, list[Path]]) -> list[Path]:
    """Return the files that may be the photograph of a label, judged by their names.

    Args:
        image: file of the label.
        by_name: all files by name without suffix.
    """
    name = name_of(Path(image.name))
    partners = [one for one in by_name[name] if one != image]
    for length in range(1, len(name)):
        if not name[length].isalnum():
            partners += by_name.get(name[:length], [])
    return partners


def _is_label(file: Path, allows_16_bit: bool) -> bool:
    """Return whether an image can be a label.

    Args:
        file: image file.
        allows_16_bit: whether an image with 16 bits or floats, such as a depth map, is a label. An
            image with 8 bits is a label if it has few different values.
    """
    if file.suffix.lower() in LOSSY_SUFFIXES:
        return False

    def is_label(image: Image.Image) -> np.ndarray:
        if image.mode == "F" or image.mode.startswith("I"):
            return np.array(allows_16_bit)
        return np.array(image.getcolors(MAX_VALUES) is not None)

    try:
        return bool(decode(file, _FORMATS, is_label))
    except InputError:
        return False
