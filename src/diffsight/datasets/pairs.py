"""An image and its label on disk: what every data set of files reads, lists and checks."""

import difflib
import functools
import hashlib
import itertools
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from diffsight.datasets.base import Sample
from diffsight.datasets.depth import read_depth
from diffsight.datasets.files import IMAGE_SUFFIXES, UNREADABLE, list_files, read_image, read_text
from diffsight.errors import InputError

MOST_COMPARED = 100  # names in the search for some that are alike
# of files that are no masks or photographs, for messages
_HINTS: Mapping[str, str] = {
    ".jpg": ": JPEG changes numbers; save labels as PNG",
    ".jpeg": ": JPEG changes numbers; save labels as PNG",
    ".json": ": polygons? give the file itself, if it is one for all images",
    ".txt": ": boxes or polygons of YOLO? export them as COCO JSON",
    ".csv": ": points? give the file itself",
    ".xml": ": boxes of Pascal VOC? export masks",
    **{suffix: f": {repair}" for suffix, repair in UNREADABLE.items()},
}


@dataclass(frozen=True)
class Pair:
    """Where one sample is.

    Attributes:
        id: name of the sample, without the part of the path that differs between machines.
        image: file for ``read_image``.
        depth: file for ``read_depth``.
        encoding: of the depth, as ``read_depth`` takes it.
        prompt: text name of the sample, or None.
    """

    id: str
    image: Path
    depth: Path
    encoding: str
    prompt: str | None = None


def read_pair(pair: Pair, invalid: int | float = 0) -> Sample:
    """Return the sample, with label ``depth_m`` (``1 h w``, metres).

    Raises:
        InputError: if a file cannot be used, or the two differ in size.
    """
    image = read_image(pair.image)
    depth_m, valid = read_depth(pair.depth, pair.encoding, invalid)
    if depth_m.shape != image.shape[-2:]:
        rows, columns = image.shape[-2:]
        raise InputError(
            f"{pair.depth}: depth of {depth_m.shape[1]} x {depth_m.shape[0]} pixels for an image "
            f"({pair.image}) of {columns} x {rows}: give both the same size, upright as the image "
            "is shown (its EXIF orientation is applied)"
        )
    return Sample(pair.id, image, {"depth_m": depth_m[None]}, {"depth_m": valid}, pair.prompt)


def read_list(path: Path, columns: int) -> list[tuple[str, ...]]:
    """Return the first fields of every line of a list file, without a leading slash.

    Raises:
        InputError: if the file cannot be read, has no line, or a line with too few fields.
    """
    rows = []
    for number, line in enumerate(read_text(path, "a list").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) < columns:
            raise InputError(
                f"{path}, line {number}: {len(fields)} field(s) instead of {columns}; a line is "
                "'IMAGE DEPTH', further fields are ignored"
            )
        rows.append(tuple(field.lstrip("/") for field in fields[:columns]))
    if not rows:
        raise InputError(f"{path}: the list is empty; give one line 'IMAGE DEPTH' per sample")
    return rows


def same_form(name: str) -> str:
    """Return a name in the one Unicode form in which names of files are compared."""
    return unicodedata.normalize("NFC", name)


def name_of(path: Path) -> str:
    """Return what an image and its label have in common: the path without suffix, in one form."""
    return same_form(path.with_suffix("").as_posix()).casefold()


def file_finder() -> Callable[[Path], Path | None]:
    """Return a function that returns the file of a path, or None where there is none.

    The file's name may have another Unicode form. Every folder is listed once: lists are long,
    folders few.
    """

    @functools.cache
    def files(folder: Path) -> dict[str, Path]:
        if not folder.is_dir():
            there = None if folder == folder.parent else find(folder)
            if there is None or not there.is_dir():
                return {}
            folder = there
        return {same_form(path.name): path for path in folder.iterdir()}

    def find(path: Path) -> Path | None:
        return files(path.parent).get(same_form(path.name))

    return find


def require_files(pairs: Iterable[Pair], repair: str) -> list[Pair]:
    """Return the pairs with the paths of files that are there.

    Raises:
        InputError: with the number of missing files, the first of them, and ``repair``.
    """
    find = file_finder()
    pairs = list(pairs)
    paths = [path for pair in pairs for path in (pair.image, pair.depth)]
    missing = [path for path in paths if find(path) is None]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(paths)} files are missing (first: {missing[0]}); {repair}"
        )
    return [
        replace(pair, image=find(pair.image) or pair.image, depth=find(pair.depth) or pair.depth)
        for pair in pairs
    ]


def match_names(
    images: Path, labels: Path, suffixes: frozenset[str], kind: str, otherwise: str = ""
) -> list[tuple[Path, Path]]:
    """Return images and their labels, ordered by name; every file has a partner.

    The paths below the two folders agree as in ``pair_names``.

    Args:
        images: folder of the images.
        labels: folder of the labels.
        suffixes: of files that are labels.
        kind: what a label is called in messages.
        otherwise: another way out, for messages.

    Raises:
        InputError: if a folder is missing or empty, or a file has no partner.
    """
    image_files = files_by_name(images, IMAGE_SUFFIXES, "image", otherwise)
    label_files = files_by_name(labels, suffixes, kind, otherwise)
    names = pair_names(list(image_files), list(label_files), is_one_folder=is_same(images, labels))
    used = set(names.values())
    if is_same(images, labels) and names:
        image_files = {name: file for name, file in image_files.items() if name not in used}
        label_files = {name: label_files[name] for name in names.values()}
    require_partners(
        [file for name, file in image_files.items() if name not in names],
        len(image_files),
        f"image(s) in {images}",
        f"{kind} in {labels}",
        otherwise + looks_like(image_files, label_files, names),
    )
    require_partners(
        [file for name, file in label_files.items() if name not in used],
        len(label_files),
        f"{kind}(s) in {labels}",
        f"image in {images}",
        otherwise,
    )
    return [(file, label_files[names[name]]) for name, file in image_files.items()]


def require_partners(
    alone: Sequence[Path | str], count: int, which: str, partner: str, otherwise: str = ""
) -> None:
    """Refuse files without a partner.

    Raises:
        InputError: with their number and the first.
    """
    if alone:
        raise InputError(
            f"{len(alone)} of {count} {which} have no {partner} of the same name (first: "
            f"{alone[0]}); add or remove files{otherwise}"
        )


def is_same(images: Path, labels: Path) -> bool:
    """Return whether two paths lead to one folder."""
    return images.resolve() == labels.resolve()


def pair_names(
    images: Sequence[str], labels: Sequence[str], *, is_one_folder: bool = False
) -> dict[str, str]:
    """Return the name of the label for every image that has one, in the order of the images.

    Names are equal, or else those of all labels end with the same letters after the image's name
    (``p0`` and ``p0_mask``), or else the last parts of the paths are equal.

    Args:
        images: names as ``files_by_name`` returns them.
        labels: likewise.
        is_one_folder: images and labels are in one folder, where the ending tells them apart. It
            begins with no letter or digit.
    """
    there = set(labels)
    equal = {} if is_one_folder else {name: name for name in images if name in there}
    if equal:
        return equal
    ending = common_ending(images, labels, is_one_folder=is_one_folder)
    if ending:
        return {name: name + ending for name in images if name + ending in there}
    if is_one_folder:
        return {}
    by_last = {name.rpartition("/")[2]: name for name in labels}
    last = [name.rpartition("/")[2] for name in images]
    if len(by_last) < len(labels) or len(set(last)) < len(last):
        return {}  # a name in two folders
    return {
        name: by_last[short] for name, short in zip(images, last, strict=True) if short in by_last
    }


def common_ending(
    images: Sequence[str], labels: Sequence[str], *, is_one_folder: bool = False
) -> str:
    """Return what the names of labels have after those of their images; empty if nothing fits."""
    there, endings = set(images), Counter[str]()
    for label in labels:
        for length in range(1, len(label)):
            ending = label[length:]
            if label[:length] in there and not (is_one_folder and ending[0].isalnum()):
                endings[ending] += 1
    if not endings:
        return ""
    ending, count = max(endings.items(), key=lambda item: (item[1], len(item[0])))
    return ending if is_one_folder or count == len(labels) else ""


def looks_like(
    images: Mapping[str, Path], labels: Mapping[str, Path], names: Mapping[str, str]
) -> str:
    """Return a hint for a message: two files without partner whose names are alike."""
    used = set(names.values())
    free = [name for name in labels if name not in used][:MOST_COMPARED]
    for name, image in itertools.islice(images.items(), MOST_COMPARED):
        if name not in names and (near := difflib.get_close_matches(name, free, n=1)):
            return f" ({labels[near[0]].name} looks like {image.name})"
    return ""


def require_one_size(label: Path, ids: Tensor, path: Path, image: Tensor) -> None:
    """Refuse classes ``h w`` and an image ``c h w`` of different sizes.

    Raises:
        InputError: naming both files and sizes.
    """
    if ids.shape != image.shape[-2:]:
        raise InputError(
            f"{label}: {ids.shape[1]} x {ids.shape[0]} pixels for an image ({path}) of "
            f"{image.shape[2]} x {image.shape[1]}: give both the same size"
        )


def one_side(
    images: Sequence[Path], split: Literal["train", "val", "all"], val_fraction: float, root: Path
) -> list[int]:
    """Return which images belong to a split, ordered by content; ``val`` has the lowest hashes.

    Args:
        images: in an order that distinguishes copies of one image.
        split: ``all`` are all, as they come.
        val_fraction: expected fraction of ``val``; neither side is empty.
        root: folder, for messages.

    Raises:
        InputError: for a fraction that is not between 0 and 1, or a single image.
    """
    if split == "all":
        return list(range(len(images)))
    if not 0 < val_fraction < 1:
        raise InputError(f"val_fraction is {val_fraction}; give a fraction between 0 and 1")
    if len(images) < 2:
        raise InputError(f"{root}: one sample cannot be split; use split 'all' or add images")
    hashes = [content_hash(image) for image in images]
    ordered = sorted(range(len(images)), key=lambda index: (hashes[index], index))
    low = sum(int(one[:16], 16) < val_fraction * 2**64 for one in hashes)
    border = min(max(low, 1), len(images) - 1)
    return ordered[:border] if split == "val" else ordered[border:]


def content_hash(path: Path) -> str:
    """Return SHA-256 of a file's bytes, whatever its name and folder are."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def files_by_name(
    folder: Path, suffixes: frozenset[str], kind: str, otherwise: str = ""
) -> dict[str, Path]:
    """Return files below ``folder`` by their path without suffix, in lower case and one form.

    Args:
        folder: searched through; links to folders are followed.
        suffixes: of the files.
        kind: what a file is called in messages.
        otherwise: another way out, for messages.

    Raises:
        InputError: if there is no such folder or file, or two of the same name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; put the {kind}s there or name another folder")
    files: dict[str, Path] = {}
    others = Counter[str]()
    for file in list_files(folder):
        if file.suffix.lower() not in suffixes:
            others[file.suffix.lower()] += 1
            continue
        name = name_of(file.relative_to(folder))
        if name in files:
            raise InputError(
                f"{file}: has the same name as {files[name]}, so its partner is not clear; "
                f"remove one{otherwise}"
            )
        files[name] = file
    if not files:
        known = " ".join(sorted(suffixes))
        there = ", ".join(f"{count} {name or 'file'}" for name, count in others.most_common(3))
        found = f"; it holds {there}{_HINTS.get(next(iter(others)), '')}" if there else ""
        raise InputError(f"{folder}: holds no {kind} ({known}); check the folder's name{found}")
    return files
