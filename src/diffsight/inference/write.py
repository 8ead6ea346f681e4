"""Predictions on disk: the numbers, what they mean, and a picture."""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from diffsight.datasets.files import IMAGE_SUFFIXES, replacing, write_depth_png
from diffsight.datasets.labels import HIGHEST_ID
from diffsight.errors import InputError
from diffsight.types import ClassPrediction, DepthPrediction, MaskPrediction, ValuePrediction

LARGEST_M = 65.535
# what a PNG beside an image may be, other than an image
KINDS = ("depth", "classes", "mask", "colour")
# of `diffsight explain`: the numbers, and the pictures beside them
EXPLAINED, PICTURES = "explain.json", ("concepts.png", "codebook.png", "bins.png")


@dataclass(frozen=True)
class Job:
    """One image to run, and the name of its results below the output folder, without suffix."""

    image: Path
    name: Path


class Occupied(InputError):
    """A result has no place, because something else is there."""


def find_images(arguments: Sequence[str]) -> list[Job]:
    """The images that files, folders and patterns name, in order and once each.

    Names of results keep the folders below what the images have in common, so that two files of one
    name do not overwrite each other. A file that does not exist is kept: reading it says so.

    Args:
        arguments: files, folders (searched through), or patterns such as ``photos/*.jpg``. Results
            of an earlier run that lie among them are left out.

    Raises:
        InputError: if a folder or a pattern has no image.
    """
    images: dict[Path, None] = {}
    for argument in arguments:
        found = _expand(argument)
        if not found:
            known = " ".join(sorted(IMAGE_SUFFIXES))
            raise InputError(f"{argument}: no images there ({known}): check the path")
        images.update(dict.fromkeys(found))
    return _named(list(images))


def write_prediction(
    prediction: Any, picture: UInt8[Tensor, "3 h w"], out: Path, job: Job, notes: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the numbers, ``NAME_colour.png`` and ``NAME.json``, which says what they mean.

    Depth: ``NAME_depth.png`` (16-bit millimetres, 0 = unknown) and, where it is known,
    ``NAME_uncertainty.npy`` (metres). Classes: ``NAME_classes.png`` (the
    ids of ``names``) and ``NAME_confidence.npy``. Masks: ``NAME_mask.png`` (255 is the thing)
    and ``NAME_probability.npy``. Other numbers: ``NAME_values.npy``
    (``h w`` or ``h w d``, NaN = unknown) and ``NAME_uncertainty.npy``.

    The JSON comes last and is written only when the others are whole.

    Args:
        prediction: of any kind.
        picture: of the prediction.
        out: folder of the results.
        job: image and name.
        notes: what else to say in the JSON file.

    Returns:
        The contents of the JSON file.

    Raises:
        Occupied: if they would replace something beside the image that is not of an earlier run.
        InputError: if the files cannot be written.
    """
    base = out / job.name
    files, meaning = _content(prediction)
    files["colour.png"] = lambda path: _save_png(
        Image.fromarray(picture.permute(1, 2, 0).contiguous().cpu().numpy()), path
    )
    paths = {name: base.with_name(f"{base.name}_{name}") for name in files}
    sidecar = base.with_name(f"{base.name}.json")
    about = {"image": str(job.image)}
    about |= {name.partition(".")[0]: path.name for name, path in paths.items()}
    about |= meaning | dict(notes)
    ours = _written(sidecar, base.name)
    if base.parent.resolve() == job.image.parent.resolve():
        for path in (*paths.values(), sidecar):
            if path.exists() and path.name not in ours:
                raise Occupied(
                    f"{path}: is there already, beside the image, and is not of an earlier run: "
                    "choose another --out"
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
        for name, write in files.items():
            write(paths[name])
        with replacing(sidecar) as partial:
            partial.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    except (InputError, KeyboardInterrupt):
        for path in paths.values():
            path.unlink(missing_ok=True)
        raise
    return about


def _written(sidecar: Path, name: str) -> set[str]:
    """Names of the files of an earlier run, that one included: under ``depth`` it tells
    ``NAME_depth.png``.
    """
    try:
        about = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    if not isinstance(about, dict) or not {"image", "colour"} <= about.keys():
        return set()
    files = (f"{name}_{key}.{suffix}" for key in about for suffix in ("png", "npy"))
    told = {value for value in about.values() if isinstance(value, str)}
    return {sidecar.name, *(told & set(files))}


def _content(prediction: Any) -> tuple[dict[str, Callable[[Path], None]], dict[str, Any]]:
    """How each file of numbers is written, by the end of its name, and what they mean."""
    if isinstance(prediction, DepthPrediction):
        depth_m, valid = prediction.depth_m, prediction.valid
        numbers: dict[str, Callable[[Path], None]] = {
            "depth.png": lambda path: write_depth_png(path, depth_m, valid)
        }
        spread_m = prediction.uncertainty_m
        if spread_m is not None:
            numbers["uncertainty.npy"] = lambda path: _save_npy(spread_m, path)
        return numbers, _meaning(prediction)
    if isinstance(prediction, ClassPrediction):
        ids, confidence = prediction.ids, prediction.confidence
        return {
            "classes.png": lambda path: _save_png(_class_image(prediction), path),
            "confidence.npy": lambda path: _save_npy(confidence.half(), path),
        }, {
            "size": [ids.shape[1], ids.shape[0]],
            "classes_are": _class_encoding(prediction),
            "names": {str(number): name for number, name in prediction.names.items()},
            "pixels": {
                prediction.names[number]: int((ids == number).sum()) for number in prediction.names
            },
            "confidence_median": round(float(confidence.median()), 4),
        }
    if isinstance(prediction, MaskPrediction):
        mask, probability = prediction.mask.cpu().numpy(), prediction.probability
        return {
            "mask.png": lambda path: _save_png(Image.fromarray(mask.astype(np.uint8) * 255), path),
            "probability.npy": lambda path: _save_npy(probability.half(), path),
        }, {"size": [mask.shape[1], mask.shape[0]], "pixels": int(mask.sum())}
    if isinstance(prediction, ValuePrediction):
        return _value_content(prediction)
    raise InputError(f"a {type(prediction).__name__} has no form on disk: use another task")


def _value_content(
    prediction: ValuePrediction,
) -> tuple[dict[str, Callable[[Path], None]], dict[str, Any]]:
    values = torch.where(prediction.valid, prediction.values, torch.nan).movedim(0, -1)
    values = values[..., 0] if values.shape[-1] == 1 else values
    files: dict[str, Callable[[Path], None]] = {"values.npy": lambda path: _save_npy(values, path)}
    means: dict[str, Any] = {
        "size": [values.shape[1], values.shape[0]],
        "unit": prediction.unit,
        "valid": round(float(prediction.valid.float().mean()), 6),
    }
    if prediction.directions:
        means["directions"] = "unit vectors: x right, y down, z forward"
    spread = prediction.uncertainty
    if spread is not None:
        files["uncertainty.npy"] = lambda path: _save_npy(spread, path)
        means["uncertainty_is"] = "standard deviation of the predicted distribution"
    return files, means


def _class_encoding(prediction: ClassPrediction) -> str:
    if _in_colours(prediction):
        return "colours, numbered by names"
    small = max(prediction.names) < 256
    return "palette indices, the ids of names" if small else "16-bit ids of names"


def _in_colours(prediction: ClassPrediction) -> bool:
    return prediction.ids_are_colours or max(prediction.names) > HIGHEST_ID


def _class_image(prediction: ClassPrediction) -> Image.Image:
    ids = prediction.ids.cpu().numpy()
    if _in_colours(prediction):
        return Image.fromarray(np.stack([ids >> 16, ids >> 8 & 255, ids & 255], 2).astype(np.uint8))
    if max(prediction.names) >= 256:
        return Image.fromarray(ids.astype(np.uint16))
    image = Image.fromarray(ids.astype(np.uint8), mode="P")
    flat = [0] * 768
    for number, colour in prediction.palette.items():
        flat[3 * number : 3 * number + 3] = colour
    image.putpalette(flat)
    return image


def _save_png(image: Image.Image, path: Path) -> None:
    with replacing(path) as partial:
        image.save(partial, format="PNG")


def _save_npy(values: Tensor, path: Path) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, values.cpu().numpy())


def _meaning(prediction: DepthPrediction) -> dict[str, Any]:
    known = prediction.depth_m[prediction.valid].double().cpu().numpy()
    low, middle, high = np.percentile(known, [0, 50, 100]).round(4) if known.size else [None] * 3
    height, width = prediction.depth_m.shape
    about: dict[str, Any] = {
        "size": [width, height],
        "unit": "mm",
        "scale": 0.001,
        "scale_means": "metres per count",
        "invalid": 0,
        "depth_type": prediction.depth_type,
        "valid": round(known.size / prediction.depth_m.numel(), 6),
        "beyond_range_share": round(
            float((known > LARGEST_M).sum()) / prediction.depth_m.numel(), 6
        ),
        "depth_m": {"min": low, "median": middle, "max": high},
    }
    if prediction.uncertainty_m is not None:
        spread_m = torch.nanmedian(prediction.uncertainty_m).item()
        about["uncertainty_m"] = {
            "kind": "standard deviation",
            "median": round(spread_m, 6),
        }
    return about


def _expand(argument: str) -> list[Path]:
    path = Path(argument)
    if path.is_dir():
        return sorted(_absolute(p) for p in path.rglob("*") if _is_image(p.relative_to(path), p))
    if any(sign in argument for sign in "*?[") and not path.exists():
        root = Path(path.anchor) if path.anchor else Path()
        pattern = str(path.relative_to(path.anchor)) if path.anchor else argument
        return sorted(_absolute(p) for p in root.glob(pattern) if _is_image(Path(p.name), p))
    return [_absolute(path)]


def _absolute(path: Path) -> Path:
    # links are not followed: results are named after what the user sees
    return Path(os.path.abspath(path))


def _is_image(inner: Path, path: Path) -> bool:
    hidden = any(part.startswith(".") for part in inner.parts)
    if hidden or path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
        return False
    if path.name in PICTURES and path.with_name(EXPLAINED).is_file():
        return False
    base, _, kind = path.stem.rpartition("_")
    return kind not in KINDS or not path.with_name(f"{base}.json").is_file()


def _named(images: Sequence[Path]) -> list[Job]:
    """Names relative to the deepest common folder; where two would agree, the suffix stays too."""
    parents = [set(image.parents) for image in images]
    common = max(set.intersection(*parents), key=lambda path: len(path.parts))
    names = [image.relative_to(common).with_suffix("") for image in images]
    counts = Counter(str(name).casefold() for name in names)
    return [
        Job(image, name if counts[str(name).casefold()] == 1 else name.with_name(image.name))
        for image, name in zip(images, names, strict=True)
    ]
