"""Predictions on disk: the numbers, what they mean, and a picture."""

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, PngImagePlugin
from torch import Tensor

from diffsight.atomic import replacing
from diffsight.datasets.files import IMAGE_SUFFIXES, list_files
from diffsight.errors import InputError
from diffsight.formats.text import read_object
from diffsight.inference.left_out import count_files, labels_among, unreadable_types
from diffsight.inference.legend import with_legend
from diffsight.tasks import Prediction, StoredArray

# of `diffsight explain`: the numbers, and the pictures
EXPLAINED = "explain.json"
PICTURES = ("concepts.png", "maps.png", "codebook.png", "bins.png", "steps.png")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One image to run, and the name of its results below the output folder, without suffix."""

    image: Path
    name: Path


class Occupied(InputError):
    """A file of a result exists and is not of an earlier run."""


def find_images(arguments: Sequence[str]) -> list[Job]:
    """Return the images that files, folders and patterns name, in order and once each.

    Names of results keep the folders below what the images have in common, so that two files of one
    name do not overwrite each other. A file that does not exist is kept; reading it raises the
    error.

    Args:
        arguments: files, folders (searched through), or patterns such as ``photos/*.jpg``. Results
            of an earlier run that lie among them are left out, and so are, with a line in the log,
            labels of the photographs and files of a type that is not read.

    Raises:
        InputError: if a folder or a pattern has no image.
    """
    images: dict[Path, None] = {}
    for argument in arguments:
        expanded = _expand(argument)
        if expanded is None:
            images[_absolute(Path(argument))] = None
            continue
        skipped = unreadable_types(expanded)
        found = [path for path in expanded if _is_image(path) or _is_rig(path, argument)]
        if not found:
            suffixes = " ".join(sorted(IMAGE_SUFFIXES))
            hint = f", {skipped}" if skipped else ""
            raise InputError(f"{argument}: no images there ({suffixes}{hint}): check the path")
        if skipped:
            log.info("%s left out", skipped)
        if labels := labels_among(found):
            log.info("%s: %s left out", argument, count_files(labels, "label of a photograph"))
        images.update(dict.fromkeys(path for path in found if path not in labels))
    return _named(list(images))


def write_prediction(
    prediction: Prediction,
    out: Path,
    job: Job,
    notes: Mapping[str, Any],
    image: Float[Tensor, "3 h w"] | UInt8[Tensor, "3 h w"] | None = None,
    pictures: Mapping[str, StoredArray] | None = None,
) -> dict[str, Any]:
    """Write the arrays of a prediction, ``NAME_colour.png``, and ``NAME.json`` with their meaning.

    ``Prediction.arrays`` names the arrays and how they are stored, such as ``NAME_depth.png``
    (16-bit millimetres, 0 = unknown) and ``NAME_uncertainty.npy``. The JSON comes last and is
    written only when the others are whole.

    Args:
        prediction: of any kind.
        out: folder of the results.
        job: image and name.
        notes: what else to write into the JSON file.
        image: for predictions that are drawn over it; RGB, bytes or in [0, 1].
        pictures: further ones, by the end of the file's name.

    Returns:
        The contents of the JSON file.

    Raises:
        Occupied: if they would replace a file that is not of an earlier run: in the image's folder
            any, elsewhere the JSON file.
        InputError: if the files cannot be written.
    """
    base = out / job.name
    arrays = {**prediction.arrays(), **(pictures or {}), "colour": _colours(prediction, image)}
    paths = {name: base.with_name(f"{base.name}_{name}{a.suffix}") for name, a in arrays.items()}
    sidecar = base.with_name(f"{base.name}.json")
    about = {"image": str(job.image), **{name: path.name for name, path in paths.items()}}
    about |= prediction.metadata() | dict(notes)
    ours = _written(sidecar, base.name)
    is_same_folder = base.parent.resolve() == job.image.parent.resolve()
    # the JSON file anywhere: it may describe the cameras of another vehicle
    for path in (*paths.values(), sidecar) if is_same_folder else (sidecar,):
        if path.exists() and path.name not in ours:
            raise Occupied(
                f"{path}: exists already and is not of an earlier run: choose another --out"
            )
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{base.parent}: cannot be made ({error.strerror}): choose another --out"
        ) from error
    try:
        sidecar.unlink(missing_ok=True)  # of an earlier run: it must not speak for new files
        for name in ours - {path.name for path in paths.values()}:
            base.with_name(name).unlink(missing_ok=True)
        for name, array in arrays.items():
            _save(array, paths[name])
        with replacing(sidecar) as partial:
            partial.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    except (InputError, KeyboardInterrupt):
        for path in paths.values():
            path.unlink(missing_ok=True)
        raise
    return about


def _colours(prediction: Prediction, image: Tensor | None) -> StoredArray:
    if image is not None and image.dtype == torch.uint8:
        image = image.float() / 255
    pixels = prediction.overview(image).permute(1, 2, 0).contiguous().cpu().numpy()
    return StoredArray(with_legend(pixels, prediction.legend()))


def _written(sidecar: Path, name: str) -> set[str]:
    """Return the names of the files of an earlier run, the JSON file included.

    Under ``depth`` it has ``NAME_depth.png``.
    """
    try:
        about = read_object(sidecar)
    except (OSError, ValueError):
        return set()
    if not {"image", "colour"} <= about.keys():
        return set()
    files = (f"{name}_{key}.{suffix}" for key in about for suffix in ("png", "npy"))
    values = {value for value in about.values() if isinstance(value, str)}
    return {sidecar.name, *(values & set(files))}


def _save(array: StoredArray, path: Path) -> None:
    """Write an array as PNG or NPY, by the suffix of the path."""
    with replacing(path) as partial:
        if array.suffix == ".npy":
            with partial.open("wb") as file:
                np.save(file, array.values)
            return
        notes = PngImagePlugin.PngInfo()
        for key, value in (array.notes or {}).items():
            notes.add_text(key, value)
        _picture(array).save(partial, format="PNG", pnginfo=notes)


def _picture(array: StoredArray) -> Image.Image:
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
        found = (one for one in root.glob(pattern) if not one.name.startswith("."))
        return sorted(_absolute(one) for one in found if one.is_file())
    return None


def _absolute(path: Path) -> Path:
    # links are not followed: results are named after what the user sees
    return Path(os.path.abspath(path))


def _is_image(path: Path) -> bool:
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return False
    if path.name in PICTURES and path.with_name(EXPLAINED).is_file():
        return False
    return not _is_result(path)


def _is_rig(path: Path, argument: str) -> bool:
    """Whether a pattern that ends in ``.json`` means this file, for models of several cameras."""
    return argument.endswith(".json") and not _written(path, path.stem)


def _is_result(path: Path) -> bool:
    """Whether a JSON file of an earlier run names this file."""
    parts = path.stem.split("_")
    names = ("_".join(parts[:count]) for count in range(1, len(parts)))
    return any(path.name in _written(path.with_name(f"{name}.json"), name) for name in names)


def _named(images: Sequence[Path]) -> list[Job]:
    """Return names below the deepest common folder; where two are equal, the suffix stays."""
    parents = [set(image.parents) for image in images]
    common = max(set.intersection(*parents), key=lambda path: len(path.parts))
    names = [image.relative_to(common).with_suffix("") for image in images]
    counts = Counter(str(name).casefold() for name in names)
    return [
        Job(image, name if counts[str(name).casefold()] == 1 else name.with_name(image.name))
        for image, name in zip(images, names, strict=True)
    ]
