"""Match, list, check and read the image and label files of a data set."""

import functools
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from diffsight.datasets.base import Sample
from diffsight.datasets.depth import read_depth
from diffsight.datasets.files import (
    IMAGE_SUFFIXES,
    UNSUPPORTED_SUFFIXES,
    list_files,
    read_image,
    read_text,
)
from diffsight.datasets.pair_names import pair_names, suggest_similar_name
from diffsight.errors import InputError

# hints for messages about folders without labels or images, by the suffix of their other files
_HINTS: Mapping[str, str] = {
    ".jpg": ": JPEG changes numbers; save labels as PNG",
    ".jpeg": ": JPEG changes numbers; save labels as PNG",
    ".json": ": if one file has the polygons of all images, give the path of this file",
    ".txt": ": if they are YOLO labels, export them as COCO JSON",
    ".csv": ": if they list labelled points, give the path of one such file",
    ".xml": ": if they are boxes of Pascal VOC, export masks instead",
    **{suffix: f": {repair}" for suffix, repair in UNSUPPORTED_SUFFIXES.items()},
}


@dataclass(frozen=True)
class Pair:
    """The image file and the depth file of one sample.

    Attributes:
        id: name of the sample, without the part of the path that differs between machines.
        image: image file (see ``read_image``).
        depth: depth file (see ``read_depth``).
        encoding: unit of the depth (see ``read_depth``).
        prompt: text prompt of the sample, or None.
    """

    id: str
    image: Path
    depth: Path
    encoding: str
    prompt: str | None = None


def read_pair(pair: Pair, invalid: int | float = 0) -> Sample:
    """Return the sample, with label ``depth_m`` (``1 h w``, metres).

    Args:
        pair: files of the sample.
        invalid: stored value that means "no measurement", besides 0.

    Raises:
        InputError: if a file cannot be used, or image and depth differ in size.
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
    """Return the first ``columns`` fields of every line of a list file, without leading slashes.

    Raises:
        InputError: if the file cannot be read or is empty, or a line has too few fields.
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


def normalise_name(name: str) -> str:
    """Return a file name in Unicode form NFC, in which names are compared."""
    return unicodedata.normalize("NFC", name)


def name_of(path: Path) -> str:
    """Return the name by which an image and its label are matched.

    It is the path without suffix, in lower case and in Unicode form NFC.
    """
    return normalise_name(path.with_suffix("").as_posix()).casefold()


def make_file_finder() -> Callable[[Path], Path | None]:
    """Return a function that returns a path as it is spelled on the disk, or None if it is missing.

    The two names may differ in their Unicode form. Every folder is listed only once, because list
    files name many files in few folders.
    """

    @functools.cache
    def files(folder: Path) -> dict[str, Path]:
        if not folder.is_dir():
            existing = None if folder == folder.parent else find(folder)
            if existing is None or not existing.is_dir():
                return {}
            folder = existing
        return {normalise_name(path.name): path for path in folder.iterdir()}

    def find(path: Path) -> Path | None:
        return files(path.parent).get(normalise_name(path.name))

    return find


def require_files(pairs: Iterable[Pair], repair: str) -> list[Pair]:
    """Return the pairs with the paths of their files as they are spelled on the disk.

    Args:
        pairs: samples with paths from a list file or from the usual layout of the data set.
        repair: advice at the end of the error message.

    Raises:
        InputError: if files are missing; the message counts them and names the first.
    """
    find = make_file_finder()
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
    images: Path, labels: Path, suffixes: frozenset[str], kind: str, alternative: str = ""
) -> list[tuple[Path, Path]]:
    """Return the paths of every image and its label, ordered by the name of the image.

    ``pair_names`` matches the paths relative to the two folders. Every file must have a partner.

    Args:
        images: folder of the images.
        labels: folder of the labels.
        suffixes: suffixes of label files.
        kind: noun for a label in messages.
        alternative: text at the end of messages that offers another solution.

    Raises:
        InputError: if a folder is missing or empty, or a file has no partner.
    """
    image_files = files_by_name(images, IMAGE_SUFFIXES, "image", alternative)
    label_files = files_by_name(labels, suffixes, kind, alternative)
    one_folder = is_same_folder(images, labels)
    names = pair_names(list(image_files), list(label_files), is_one_folder=one_folder)
    used = set(names.values())
    if one_folder:
        if not names:
            raise InputError(f"{images}: holds no {kind} of its images: give the {kind}s' folder")
        image_files = {name: file for name, file in image_files.items() if name not in used}
        label_files = {name: label_files[name] for name in names.values()}
    require_partners(
        [file for name, file in image_files.items() if name not in names],
        len(image_files),
        f"image(s) in {images}",
        f"{kind} in {labels}",
        alternative + suggest_similar_name(image_files, label_files, names),
    )
    require_partners(
        [file for name, file in label_files.items() if name not in used],
        len(label_files),
        f"{kind}(s) in {labels}",
        f"image in {images}",
        alternative,
    )
    return [(file, label_files[names[name]]) for name, file in image_files.items()]


def require_partners(
    unmatched: Sequence[Path | str], count: int, files: str, partner: str, alternative: str = ""
) -> None:
    """Raise an error if there are images without a label, or labels without an image.

    Args:
        unmatched: files without a partner.
        count: number of all files, with and without a partner.
        files: noun for the files in the message, such as ``image(s) in FOLDER``.
        partner: noun for the missing partner in the message.
        alternative: text at the end of the message that offers another solution.

    Raises:
        InputError: if there are unmatched files; the message counts them and names the first.
    """
    if unmatched:
        raise InputError(
            f"{len(unmatched)} of {count} {files} have no {partner} of the same name (first: "
            f"{unmatched[0]}); add or remove files{alternative}"
        )


def is_same_folder(images: Path, labels: Path) -> bool:
    """Return whether two paths lead to the same folder."""
    return images.resolve() == labels.resolve()


def require_same_size(label: Path, ids: Tensor, path: Path, image: Tensor) -> None:
    """Raise an error if a label and its image differ in size.

    Args:
        label: file of the class ids, for the message.
        ids: class ids ``h w``.
        path: file of the image, for the message.
        image: image ``c h w``.

    Raises:
        InputError: if the sizes differ; the message names both files and sizes.
    """
    if ids.shape != image.shape[-2:]:
        raise InputError(
            f"{label}: {ids.shape[1]} x {ids.shape[0]} pixels for an image ({path}) of "
            f"{image.shape[2]} x {image.shape[1]}: give both the same size"
        )


def select_split(
    images: Sequence[Path], split: Literal["train", "val", "all"], val_fraction: float, root: Path
) -> list[int]:
    """Return the indices of the images of a split.

    The images are ordered by the hash of their content. Those with the lowest hashes are the
    validation set, the others the training set.

    Args:
        images: image files; their order decides between copies of the same image.
        split: ``train``, ``val``, or ``all`` for all images in the given order.
        val_fraction: expected fraction of the validation set, between 0 and 1. Neither set is
            empty.
        root: folder of the data set, for messages.

    Raises:
        InputError: if the fraction is not between 0 and 1, or there is only one image.
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
    """Return the SHA-256 of a file's bytes, which does not depend on its name and folder.

    Raises:
        InputError: if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def files_by_name(
    folder: Path, suffixes: frozenset[str], kind: str, alternative: str = ""
) -> dict[str, Path]:
    """Return the files below a folder by the name by which they are matched (``name_of``).

    Args:
        folder: folder that is searched with its sub-folders; links to folders are followed.
        suffixes: suffixes of the files, in lower case.
        kind: noun for a file in messages.
        alternative: text at the end of messages that offers another solution.

    Raises:
        InputError: if the folder does not exist or has no such file, or two files have the same
            name.
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
                f"remove one{alternative}"
            )
        files[name] = file
    if not files:
        allowed = " ".join(sorted(suffixes))
        rest = ", ".join(f"{count} {name or 'file'}" for name, count in others.most_common(3))
        hint = f"; it holds {rest}{_HINTS.get(next(iter(others)), '')}" if rest else ""
        raise InputError(f"{folder}: holds no {kind} ({allowed}); check the folder's name{hint}")
    return files
