"""Find the images to predict on, and write predictions as arrays, JSON and pictures."""

import contextlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, PngImagePlugin
from torch import Tensor

from diffsight.datasets.files import IMAGE_SUFFIXES, is_file_or_broken_link, list_files
from diffsight.errors import InputError
from diffsight.inference import storage
from diffsight.inference.explain_files import PICTURES, list_explanation
from diffsight.inference.film_files import is_film_result, is_overlay
from diffsight.inference.left_out import (
    describe_files,
    describe_unreadable_files,
    find_label_images,
)
from diffsight.inference.legend import add_legend
from diffsight.inference.storage import AnyPath, Url
from diffsight.inference.video import INSTALL, can_read_films, is_film
from diffsight.tasks import Prediction, StoredArray

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One image to predict on.

    Attributes:
        image: image file.
        name: name of the result files, relative to the output folder and without suffix.
        url: URL of the image if it is in an object store; ``image`` then only gives its name.
    """

    image: Path
    name: Path
    url: Url | None = None

    @property
    def source(self) -> AnyPath:
        """The path or the URL of the image."""
        return self.url or self.image


class OverwriteError(InputError):
    """A result would overwrite a file that an earlier run did not write."""


def find_images(arguments: Sequence[str], *, films: bool = False, urls: bool = False) -> list[Job]:
    """Return the images of files, folders and patterns, in order and without duplicates.

    The name of a result includes the image's folders below the deepest folder that all images
    share, so that the results of two files with the same name do not overwrite each other. A named
    file that does not exist is returned too; reading it raises the error. Results of an earlier run
    are skipped, except a single named file.

    Args:
        arguments: files, folders (searched recursively), or patterns such as ``photos/*.jpg``.
            Labels of the photographs, and files of a type that cannot be read, are skipped and
            logged.
        films: also return films. Without PyAV, those in folders and patterns are skipped and
            logged.
        urls: also accept URLs of images, folders and patterns in object stores. Their labels and
            films are not recognised.

    Raises:
        InputError: if a folder or a pattern has no image (and no film), all named files are results
            of earlier runs, an object store cannot be read, or some images are on this machine and
            some in an object store.
    """
    images: dict[AnyPath, None] = {}
    for argument in arguments:
        if urls and storage.is_url(argument):
            images.update(dict.fromkeys(_find_urls(Url(argument))))
            continue
        expanded = _expand(argument)
        if expanded is None:
            path = _absolute(Path(argument))
            if len(arguments) > 1 and _is_ours(path):  # a shell has expanded a pattern
                log.info("%s: result of an earlier run, skipped", path.name)
            else:
                images[path] = None
            continue
        skipped = describe_unreadable_files(expanded)
        matches = [path for path in expanded if _is_image(path) or _is_rig(path, argument)]
        clips = [path for path in expanded if films and is_film(path) and not is_overlay(path)]
        if clips and not can_read_films():
            hint = describe_files(clips, "film", f": {INSTALL}")
            skipped, clips = ", ".join(filter(None, (skipped, hint))), []
        if not matches and not clips:
            suffixes = " ".join(sorted(IMAGE_SUFFIXES))
            hint = f", {skipped}" if skipped else ""
            raise InputError(f"{argument}: no images ({suffixes}{hint}): check the path")
        if skipped:
            log.info("%s skipped", skipped)
        images.update(dict.fromkeys(clips))
        if labels := find_label_images(matches):
            log.info("%s: %s skipped", argument, describe_files(labels, "label of a photograph"))
        images.update(dict.fromkeys(path for path in matches if path not in labels))
    if not images:
        raise InputError("no images: all are results of earlier runs: name other files")
    return _to_jobs(list(images))


def write_prediction(
    prediction: Prediction,
    out: AnyPath,
    job: Job,
    notes: Mapping[str, Any],
    image: Float[Tensor, "3 h w"] | UInt8[Tensor, "3 h w"] | None = None,
    pictures: Mapping[str, StoredArray] | None = None,
) -> dict[str, Any]:
    """Write the arrays of a prediction, its picture ``NAME_colour.png``, and ``NAME.json``.

    ``Prediction.arrays`` defines the arrays and their formats, such as ``NAME_depth.png`` (16-bit
    millimetres, 0 means no depth) and ``NAME_uncertainty.npy``. The JSON file explains them. It is
    written last, after all other files are complete. Files of an earlier run are replaced.

    Args:
        prediction: prediction of any kind.
        out: output folder, or its URL.
        job: image and name of the results.
        notes: additional entries of the JSON file.
        image: RGB image, uint8 or in [0, 1], for predictions that are drawn over it.
        pictures: additional pictures; their names are appended to the file name.

    Returns:
        The contents of the JSON file.

    Raises:
        OverwriteError: if it would overwrite a file that no earlier run wrote. In the folder of the
            image this is checked for all files, elsewhere only for the JSON file.
        InputError: if the files cannot be written.
    """
    base = out / job.name
    arrays = {
        **prediction.arrays(),
        **(pictures or {}),
        "colour": draw_prediction(prediction, image),
    }
    paths = {name: base.with_name(f"{base.name}_{name}{a.suffix}") for name, a in arrays.items()}
    sidecar = base.with_name(f"{base.name}.json")
    about = {"image": str(job.source), **{name: path.name for name, path in paths.items()}}
    about |= prediction.metadata() | dict(notes)
    earlier = _earlier_results(sidecar, base.name)
    is_same_folder = storage.is_same(base.parent, job.source.parent)
    # a JSON file is protected in every folder, because it may describe the cameras of a vehicle
    for path in (*paths.values(), sidecar) if is_same_folder else (sidecar,):
        if storage.exists(path) and path.name not in earlier:
            raise OverwriteError(
                f"{path}: exists already and is not of an earlier run: choose another --out"
            )
    storage.make_folder(base.parent)
    unfinished = _unfinished(sidecar)
    if is_same_folder:  # a killed process must not leave files that look like photographs
        _write_json(unfinished, about)
    try:
        storage.remove(sidecar)  # the JSON of an earlier run must not describe new files
        for name in earlier - {path.name for path in paths.values()}:
            storage.remove(base.with_name(name))
        for name, array in arrays.items():
            save_array(array, paths[name])
        _write_json(sidecar, about)
    except (Exception, KeyboardInterrupt):  # also a lack of memory
        for path in (*paths.values(), unfinished):
            with contextlib.suppress(InputError):  # such as a name that is too long
                storage.remove(path)
        raise
    if is_same_folder:
        storage.remove(unfinished)
    return about


def _write_json(path: AnyPath, about: Mapping[str, Any]) -> None:
    with storage.replacing(path) as partial:
        partial.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _unfinished(sidecar: AnyPath) -> AnyPath:
    """Return the path of a copy of the JSON file, which exists while the files are written."""
    return sidecar.with_name(f".{sidecar.name}.unfinished")


def draw_prediction(prediction: Prediction, image: Tensor | None) -> StoredArray:
    """Return the picture of a prediction, ``h w 3``, with the legend of its colours below it.

    Args:
        prediction: prediction of any kind.
        image: RGB image, uint8 or in [0, 1], for predictions that are drawn over it.
    """
    if image is not None and image.dtype == torch.uint8:
        image = image.float() / 255
    pixels = prediction.overview(image).permute(1, 2, 0).contiguous().cpu().numpy()
    return StoredArray(add_legend(pixels, prediction.legend()))


def _earlier_results(sidecar: AnyPath, name: str) -> set[str]:
    """Return the names of the result files of an earlier run, including the JSON file.

    The JSON file lists them by the ending of their names, such as ``NAME_depth.png`` under
    ``depth``. The result is empty if the JSON file is missing or is not a result. Files that a
    killed process began are in the list too.

    Args:
        sidecar: JSON file of the earlier run; it need not exist.
        name: name of the results without ending.
    """
    for path in (sidecar, _unfinished(sidecar)):
        with contextlib.suppress(OSError, ValueError):
            return list_results(storage.read_object(path), name)
    return set()


def list_results(about: Mapping[str, Any], name: str) -> set[str]:
    """Return the names of the files that the JSON file of a result lists, and its own name.

    Args:
        about: contents of the JSON file.
        name: name of the results without ending.
    """
    if not {"image", "colour"} <= about.keys():
        return set()
    files = (f"{name}_{key}.{suffix}" for key in about for suffix in ("png", "npy"))
    values = {value for value in about.values() if isinstance(value, str)}
    return {f"{name}.json", *(values & set(files))}


def save_array(array: StoredArray, path: AnyPath) -> None:
    """Write an array as NPY or PNG, completely or not at all.

    Raises:
        InputError: if the file cannot be written.
    """
    with storage.replacing(path) as partial:
        if array.suffix == ".npy":
            with partial.open("wb") as file:
                np.save(file, array.values)
            return
        notes = PngImagePlugin.PngInfo()
        for key, value in (array.notes or {}).items():
            notes.add_text(key, value)
        _to_image(array).save(partial, format="PNG", pnginfo=notes)


def _to_image(array: StoredArray) -> Image.Image:
    if array.palette is None:
        return Image.fromarray(array.values)
    image = Image.fromarray(array.values, mode="P")
    flat = [0] * 768
    for number, colour in array.palette.items():
        flat[3 * number : 3 * number + 3] = colour
    image.putpalette(flat)
    return image


def _expand(argument: str) -> list[Path] | None:
    """Return the files of a folder or a pattern; None if it is the path of a file."""
    path = Path(argument)
    if path.is_dir():
        return [_absolute(one) for one in list_files(path)]
    if any(sign in argument for sign in "*?[") and not path.exists():
        root = Path(path.anchor) if path.anchor else Path()
        pattern = str(path.relative_to(path.anchor)) if path.anchor else argument
        matches = (one for one in root.glob(pattern) if not one.name.startswith("."))
        return sorted(_absolute(one) for one in matches if is_file_or_broken_link(one))
    return None


def _absolute(path: Path) -> Path:
    # links are not resolved, so that results have the names that the user sees
    return Path(os.path.abspath(path))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not _is_ours(path)


def _is_ours(path: Path) -> bool:
    """Return whether an earlier ``predict`` or ``explain`` has written this file."""
    is_explanation = path.name in PICTURES and path.name in list_explanation(path.parent)
    return is_explanation or is_film_result(path) or _is_result(path)


def _is_rig(path: Path, argument: str) -> bool:
    """Return whether a file describes a rig of cameras.

    It does if the argument ends in ``.json``, unless the file is a result of an earlier run.
    """
    return argument.endswith(".json") and not _earlier_results(path, path.stem)


def _is_result(path: Path) -> bool:
    """Return whether a JSON file of an earlier run lists this file."""
    return any(path.name in _earlier_results(*one) for one in _possible_sidecars(path))


def _possible_sidecars(path: AnyPath) -> Iterator[tuple[AnyPath, str]]:
    """Yield JSON files that may list a file, with the names of their results."""
    parts = path.stem.split("_")
    for count in range(1, len(parts)):
        name = "_".join(parts[:count])
        yield path.with_name(f"{name}.json"), name


def _find_urls(url: Url) -> list[Url]:
    """Return the images of a folder, a pattern or a file in an object store.

    Raises:
        InputError: if there are none, or the store cannot be read.
    """
    files = storage.list_files(url)
    if files is None:
        return [url]
    listed = set(files)

    def is_result(path: Url) -> bool:
        sidecars = (
            one for one in _possible_sidecars(path) if listed & {one[0], _unfinished(one[0])}
        )
        return any(path.name in _earlier_results(*one) for one in sidecars)

    images = [one for one in files if one.suffix.lower() in IMAGE_SUFFIXES and not is_result(one)]
    if not images:
        raise InputError(f"{url}: no images ({' '.join(sorted(IMAGE_SUFFIXES))}): check the URL")
    return images


def _to_jobs(images: Sequence[AnyPath]) -> list[Job]:
    """Return jobs with different names, which are relative to the deepest common folder."""
    parents = [set(image.parents) for image in images]
    shared = set.intersection(*parents)
    if not shared:
        raise InputError(
            f"{images[0]} is on this machine and other images are not (or the other way round): "
            "run the command once for each"
        )
    common = max(shared, key=lambda path: len(path.parts))
    names = _distinct_names([Path(image.relative_to(common)) for image in images])
    return [
        Job(Path(image), name, image if isinstance(image, Url) else None)
        for image, name in zip(images, names, strict=True)
    ]


def _distinct_names(paths: Sequence[Path]) -> list[Path]:
    """Return the paths without suffix, or with it where two of them would be the same.

    A path with its suffix may again be the same as another one without: then both keep it.
    """
    names = [path.with_suffix("") for path in paths]
    while True:
        counts = Counter(str(name).casefold() for name in names)
        pairs = zip(paths, names, strict=True)
        longer = [path if counts[str(name).casefold()] > 1 else name for path, name in pairs]
        if longer == names:
            return names
        names = longer
