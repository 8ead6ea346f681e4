"""Taskonomy in the few-shot benchmark: 22 tasks, scored as in the published tables or exactly."""

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
from diffsight.benchmark.source import (
    BenchmarkSource,
    BenchmarkTask,
    Codebook,
    benchmark_tasks,
    digest_of,
)
from diffsight.codecs import ScalarBins, VectorCodebook
from diffsight.datasets.taskonomy import Taskonomy, find_missing_folder, require_task, task_names
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
"""Largest number of a class's training images; the search for them reads the label files."""
# smallest standard deviation of a channel's labels, as a fraction of that of the codebook vectors
MIN_STD = 0.05
# 0.2 m to 24 m; larger depths are rare in a house, and empty bins would be of no use
_DEPTH_LIMITS = (0.42, 0.85)
_CHANNELS = {"depth_euclidean": 5, "edge_texture": 3, "edge_occlusion": 5}
_CHANNELS |= {"principal_curvature": 2}
_BINS = {"depth_euclidean": 40, "depth_zbuffer": 40, "principal_curvature": 40, "normal": 40}

Curve = Callable[[Float[Tensor, " n"]], Float[Tensor, "n d"]]
"""A function from one number to all channels of a label."""


def edge_curve(position: Float[Tensor, " n"]) -> Float[Tensor, "n 5"]:
    """Return the five channels of occlusion edges at positions along their range.

    The inverse of ``log(1 + 99 u) / log 100`` makes steps fine near 0, where most pixels are.

    Args:
        position: positions in [0, 1].
    """
    return edge_levels((100**position - 1) / 99 * EDGE_LEVELS[-1])


# tasks whose channels are all functions of one number: curve, limits of the number, and bins
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
    """Return Taskonomy's tasks, trained on images of 25 buildings and scored on a split.

    Args:
        root: folder of the data set.
        preset: form of the labels. ``vtm``: channels in [0, 1] of 256 x 256 pixels, resized before
            they are masked, as in the published tables. ``clean``: the same without pixels that
            are mixed with invalid ones. ``native``: one map per task at the size of the files,
            depth in metres.
        layout: layout of the folders; ``auto`` detects it.
        split: images that are scored: ``test`` or ``val`` (five buildings each), or one of these
            buildings.
        tasks: names out of the 22 tasks; default: all tasks that have files.
        max_images: largest number of images that are scored, per task.

    Raises:
        InputError: if no layout fits, no task is left, or an argument is unknown.
    """
    if max_images is not None and max_images < 1:
        raise InputError(f"max_images {max_images}: give at least one image to score")
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
            f"{root}: has no images of {empty}: download the training buildings of the tiny split "
            "and the buildings to score, or choose another split"
        )
    chosen, missing = [], {}
    for name in tasks or task_names(preset):
        groups = (TRAIN_BUILDINGS, scored)
        folders = [find_missing_folder(files, name, preset, group) for group in groups]
        if any(folders):
            missing[name] = next(filter(None, folders))
            continue
        make = partial(Taskonomy, root=root, task=name, preset=preset, files=files)
        train = make(split="train", max_images=CLASS_POOL if "/" in name else None)
        test = make(split=split, max_images=max_images, scored=True)
        chosen.append(_task(name, preset, train, test))
    if not chosen:
        raise InputError(
            f"{root}: no folder of labels for any of the tasks (missing: "
            f"{', '.join(sorted(set(missing.values())))}): download them next to the folder rgb, "
            "for training and for test buildings"
        )
    name = _source_name(split, preset, max_images, ids)
    notes = [f"left out: {task}: {folder} is not there" for task, folder in missing.items()]
    empty_buildings = [b for b in (*TRAIN_BUILDINGS, *scored) if not files.images((b,))]
    if empty_buildings:
        notes.append(f"buildings without images: {', '.join(empty_buildings)}")
    return BenchmarkSource(name, benchmark_tasks(chosen), tuple(notes))


def _source_name(
    split: str, preset: Preset, max_images: int | None, ids: Sequence[Sequence[str]]
) -> str:
    """Return a name that changes with the images that are there."""
    train, scored = ids
    counts = f"{len(train)} + {len(scored)} files ({digest_of(train, scored)})"
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
    """Return the codebook function of labels whose channels are all functions of one number.

    Its vectors are the labels at the centres of equal bins of that number. They do not depend on
    the range of the training images.

    Args:
        curve: function from the number to the channels.
        limits: lower and upper limit of the number.
        usual_bins: number of bins if no other is given.
    """

    def make(values: Float[Tensor, "m d"], bins: int | None) -> VectorCodebook:
        steps = torch.linspace(*limits, 2 * (bins or usual_bins) + 1)
        vectors = curve(ScalarBins.of(steps[::2], steps[1::2]).centres[:, 0])
        codebook = VectorCodebook.of(vectors).with_statistics(values)
        # a channel may be nearly constant in the training images
        std = torch.maximum(values.std(dim=0), MIN_STD * vectors.std(dim=0))
        codebook.label_std = std.clamp(min=1e-6)
        return codebook

    return make
