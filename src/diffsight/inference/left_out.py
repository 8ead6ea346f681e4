"""Files among photographs that are no images to predict on: other types, and labels."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from diffsight.datasets.files import UNREADABLE, decode
from diffsight.datasets.labels import LOSSY_SUFFIXES
from diffsight.datasets.pairs import name_of
from diffsight.errors import InputError

LISTED = 3
MOST_VALUES = 64  # of a class mask
_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "PPM", "WEBP", "JPEG")


def unreadable_types(files: Sequence[Path]) -> str:
    """Return how many files are photographs of a type that is not read, or nothing."""
    found = [file for file in files if file.suffix.lower() in UNREADABLE]
    if not found:
        return ""
    repair = UNREADABLE[found[0].suffix.lower()]
    return count_files(found, "file of an unreadable type", f": {repair}")


def count_files(files: Collection[Path], what: str, repair: str = "") -> str:
    """Return the number of files with the names of the first."""
    first, *rest = what.split(" ")
    named = " ".join([first if len(files) == 1 else f"{first}s", *rest])
    listed = ", ".join(file.name for file in sorted(files)[:LISTED])
    more = ", ..." if len(files) > LISTED else ""
    return f"{len(files)} {named} ({listed}{more}{repair})"


def labels_among(images: Sequence[Path]) -> frozenset[Path]:
    """Return the pictures that are labels of others: masks, or depth maps in the same folder.

    A label has the name of a photograph, or that name and an ending (``p0.jpg`` and
    ``p0_mask.png``), and holds few values. Names alone decide nothing.
    """
    by_name: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        by_name[name_of(Path(image.name))].append(image)
    found = set()
    for image in images:
        if image.suffix.lower() in LOSSY_SUFFIXES:
            continue
        partners = [one for one in _partners(image, by_name) if one not in found]
        if partners and _is_label(image, any(one.parent == image.parent for one in partners)):
            photographs = (one for one in partners if not _is_label(one, True))
            found.update([image] if next(photographs, None) else [])
    return frozenset(found)


def _partners(image: Path, by_name: dict[str, list[Path]]) -> list[Path]:
    """Return the files that may be the photograph of a label."""
    name = name_of(Path(image.name))
    partners = [one for one in by_name[name] if one != image]
    for length in range(1, len(name)):
        if not name[length].isalnum():
            partners += by_name.get(name[:length], [])
    return partners


def _is_label(file: Path, counts_too: bool) -> bool:
    """Return whether a picture holds few values, or numbers of 16 bits where these count too."""
    if file.suffix.lower() in LOSSY_SUFFIXES:
        return False

    def look(image: Image.Image) -> np.ndarray:
        if image.mode == "F" or image.mode.startswith("I"):
            return np.array(counts_too)
        return np.array(image.getcolors(MOST_VALUES) is not None)

    try:
        return bool(decode(file, _FORMATS, look))
    except InputError:
        return False
