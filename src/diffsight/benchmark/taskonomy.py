"""Taskonomy in the few-shot benchmark: 22 tasks, scored as the published tables or plainly."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.benchmark.measures import (
    AngleMeasure,
    ClassMeasure,
    DepthMeasure,
    ForegroundMeasure,
    ValueMeasure,
)
from diffsight.benchmark.source import BenchmarkSource, BenchmarkTask, Codebook, benchmark_tasks
from diffsight.codecs import ScalarBins, VectorCodebook
from diffsight.datasets.taskonomy import Taskonomy, missing_folder, require_task, task_names
from diffsight.datasets.taskonomy_files import (
    TRAIN_BUILDINGS,
    Layout,
    TaskonomyFiles,
    buildings_of,
)
from diffsight.datasets.taskonomy_labels import (
    EDGE_LEVELS,
    Preset,
    class_tasks,
    depth_segments,
    edge_levels,
    rules,
    z_range,
)
from diffsight.errors import InputError
from diffsight.tasks import AbstractTask, Depth, Normals, Segmentation, Values

CLASS_POOL = 500
"""Largest number of training images of a class: to find all, every label file is read."""
MIN_STD = 0.05  # of a channel's labels, as a fraction of that of the codebook vectors
# 0.2 m to 24 m: what is farther is rare in a house, and bins that nothing falls into are lost
_DEPTH_LIMITS = (0.42, 0.85)
_CHANNELS = {"depth_euclidean": 5, "edge_texture": 3, "edge_occlusion": 5}
_CHANNELS |= {"principal_curvature": 2}
_BINS = {"depth_euclidean": 40, "depth_zbuffer": 40, "principal_curvature": 40, "normal": 40}

Curve = Callable[[Float[Tensor, " n"]], Float[Tensor, "n d"]]


def edge_curve(position: Float[Tensor, " n"]) -> Float[Tensor, "n 5"]:
    """Return the five channels of occlusion edges along their range.

    Steps are fine near 0, where most pixels are: the inverse of ``log(1 + 99 u) / log 100``.
    """
    return edge_levels((100**position - 1) / 99 * EDGE_LEVELS[-1])


# labels of several channels that are all functions of one number between two limits
_CURVES: dict[str, tuple[Curve, tuple[float, float], int]] = {
    "depth_euclidean": (depth_segments, _DEPTH_LIMITS, 40),
    "depth_zbuffer": (z_range, _DEPTH_LIMITS, 40),
    "edge_occlusion": (edge_curve, (0.0, 1.0), 20),
}


def taskonomy_source(
    *,
    root: str | Path,
    preset: Preset = "vtm",
    layout: Layout = "auto",
    split: str = "muleshoe",
    tasks: Sequence[str] = (),
    max_images: int | None = None,
) -> BenchmarkSource:
    """Return Taskonomy's tasks: training images are of 25 buildings, scored are those of a split.

    Args:
        root: folder of the data set.
        preset: what is scored. ``vtm``: channels in [0, 1] of 256 x 256 pixels, resized before they
            are masked, as the published tables have it; ``clean``: the same without pixels that
            are mixed with invalid ones; ``native``: one map per task at the size of the files,
            depth in metres.
        layout: of the folders; ``auto`` finds it out.
        split: what is scored: ``test`` or ``val`` (five buildings each), or one of these buildings.
        tasks: names out of the 22; default: all that there are files for.
        max_images: largest number of images that are scored, per task.

    Raises:
        InputError: if no layout fits, nothing is left, or an argument is unknown.
    """
    if max_images is not None and max_images < 1:
        raise InputError(f"max_images {max_images}: at least one image must be scored")
    for name in tasks:
        require_task(name, preset)
    scored = buildings_of(split)
    if set(scored) & set(TRAIN_BUILDINGS):
        raise InputError(
            f"unknown Taskonomy split {split!r} to score: its images are for training; choose "
            "test, val, or one of their buildings"
        )
    files = TaskonomyFiles(root, layout)
    ids = [files.images(buildings) for buildings in (TRAIN_BUILDINGS, scored)]
    if not all(ids):
        empty = "the training buildings" if ids[1] else split
        raise InputError(
            f"{root}: holds no images of {empty}; training images are of the training buildings of "
            "the tiny split, scored ones of others: download both, or name another split"
        )
    chosen, missing = [], {}
    for name in tasks or task_names(preset):
        absent = [missing_folder(files, name, preset, some) for some in (TRAIN_BUILDINGS, scored)]
        if any(absent):
            missing[name] = next(filter(None, absent))
            continue
        make = partial(Taskonomy, root=root, task=name, preset=preset, files=files)
        train = make(split="train", max_images=CLASS_POOL if "/" in name else None)
        test = make(split=split, max_images=max_images, scored=True)
        chosen.append(_task(name, preset, train, test))
    if not chosen:
        raise InputError(
            f"{root}: no folder of labels for any of the tasks (missing: "
            f"{', '.join(sorted(set(missing.values())))}): download them into "
            "the folder of rgb, for training and for test buildings"
        )
    name = _source_name(split, preset, max_images, ids)
    notes = [f"left out: {task}: {folder} is not there" for task, folder in missing.items()]
    without = [b for b in (*TRAIN_BUILDINGS, *scored) if not files.images((b,))]
    if without:
        notes.append(f"buildings without images: {', '.join(without)}")
    return BenchmarkSource(name, benchmark_tasks(chosen), tuple(notes))


def _source_name(
    split: str, preset: Preset, max_images: int | None, ids: Sequence[Sequence[str]]
) -> str:
    """Return a name that depends on which images there are."""
    train, scored = ids
    digest = hashlib.sha256("\n".join((*train, "", *scored)).encode()).hexdigest()
    counts = f"{len(train)} + {len(scored)} files ({digest[:8]})"
    name = f"taskonomy, {split}, {preset}, {counts}"
    return name if max_images is None else f"{name}, {max_images} images"


def _task(name: str, preset: Preset, train: Taskonomy, test: Taskonomy) -> BenchmarkTask:
    """Return a task with its measure and the paper's number of bins."""
    classes = class_tasks().get(name)
    if classes is not None:
        measure: Any = ForegroundMeasure if len(classes) == 2 else ClassMeasure
        return BenchmarkTask(name, Segmentation(classes), train, test, measure)
    kind = rules(preset)[name].kind
    bins, channels = _BINS.get(name, 20), _CHANNELS[name] if kind == "vector" else 1
    task: AbstractTask = Values(channels=channels, bins=bins)
    error = "vtm_mae" if preset == "vtm" else "rmse_valid"
    measure = partial(ValueMeasure, name=error, clip=(0.0, 1.0))
    if kind == "depth":
        along = "euclidean" if name == "depth_euclidean" else "z"
        task, measure = Depth(max_depth_m=None, depth_type=along, bins=bins), DepthMeasure
    elif kind == "normals":
        angle = "merr_vtm" if preset == "vtm" else "merr_true"
        task, measure = Normals(bins=bins), partial(AngleMeasure, name=angle)
    curve = None if preset == "native" else _CURVES.get(name)
    codebook = None if curve is None else curve_codebook(*curve)
    return BenchmarkTask(name, task, train, test, measure, codebook)


def curve_codebook(curve: Curve, limits: tuple[float, float], usual_bins: int) -> Codebook:
    """Return what makes the codebook of labels whose channels are all functions of one number.

    Its vectors are the labels at the centres of equal bins of that number, whatever the training
    images hold of the range.

    Args:
        curve: channels of a number.
        limits: of the number.
        usual_bins: of it, where no other number is given.
    """

    def make(values: Float[Tensor, "m d"], bins: int | None) -> VectorCodebook:
        steps = torch.linspace(*limits, 2 * (bins or usual_bins) + 1)
        vectors = curve(ScalarBins.of(steps[::2], steps[1::2]).centres[:, 0])
        codebook = VectorCodebook.of(vectors).with_statistics(values)
        # some channel may hold nearly one value in the training images
        std = torch.maximum(values.std(dim=0), MIN_STD * vectors.std(dim=0))
        codebook.label_std = std.clamp(min=1e-6)
        return codebook

    return make
