"""Predictions on disk: depth in 16-bit millimetres, what its numbers mean, and a picture."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from diffsight.datasets.files import IMAGE_SUFFIXES, replacing, write_depth_png
from diffsight.types import DepthPrediction, InputError

LARGEST_M = 65.535
KINDS = ("depth", "colour")


@dataclass(frozen=True)
class Job:
    """One image to run, and the name of its results below the output folder, without suffix."""

    image: Path
    name: Path


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


def write_depth(
    prediction: Any, picture: UInt8[Tensor, "3 h w"], out: Path, job: Job, notes: Mapping[str, Any]
) -> dict[str, Any]:
    """Write ``NAME_depth.png`` (millimetres, 0 = unknown), ``NAME_colour.png`` and ``NAME.json``.

    The JSON comes last and says what the numbers mean; it is written only when the others are
    whole.

    Args:
        prediction: metric depth.
        picture: of the prediction.
        out: folder of the results.
        job: image and name.
        notes: what else to say in the JSON file.

    Returns:
        The contents of the JSON file.

    Raises:
        InputError: if the prediction is not in metres, or the files cannot be written.
    """
    if not isinstance(prediction, DepthPrediction):
        raise InputError(
            f"{job.image}: a {type(prediction).__name__} has no metres to write: "
            "use a model whose task is metric depth"
        )
    base = out / job.name
    depth, colour = (base.with_name(f"{base.name}_{kind}.png") for kind in KINDS)
    sidecar = base.with_name(f"{base.name}.json")
    about = {"image": str(job.image), "depth": depth.name, "colour": colour.name}
    about |= _meaning(prediction) | dict(notes)
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{base.parent}: cannot be made ({error.strerror}): choose another --out"
        ) from error
    try:
        sidecar.unlink(missing_ok=True)  # of an earlier run: it must not speak for new files
        write_depth_png(depth, prediction.depth_m, prediction.valid)
        with replacing(colour) as partial:
            pixels = picture.permute(1, 2, 0).contiguous().cpu().numpy()
            Image.fromarray(pixels).save(partial, format="PNG")
        with replacing(sidecar) as partial:
            partial.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    except InputError:
        for path in (depth, colour):
            path.unlink(missing_ok=True)
        raise
    return about


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
        "valid_share": round(known.size / prediction.depth_m.numel(), 6),
        "beyond_range_share": round(
            float((known > LARGEST_M).sum()) / prediction.depth_m.numel(), 6
        ),
        "depth_m": {"min": low, "median": middle, "max": high},
    }
    if prediction.uncertainty_m is not None:
        spread_m = torch.nanmedian(prediction.uncertainty_m).item()
        about["uncertainty_m"] = {
            "kind": "std over the plan's passes",
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
