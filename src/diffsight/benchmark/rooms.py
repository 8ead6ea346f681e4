"""Rooms in the few-shot benchmark: the ten tasks of Taskonomy with exact labels."""

from functools import partial

from diffsight.benchmark.measures import AngleMeasure, ClassMeasure, ValueMeasure
from diffsight.benchmark.source import BenchmarkSource, BenchmarkTask, benchmark_tasks
from diffsight.errors import InputError
from diffsight.rooms.taskonomy import TaskonomyRooms
from diffsight.rooms.world import CLASSES
from diffsight.tasks import Depth, Normals, Segmentation, Values

# tasks with scalar labels; each has the name of its label
_SCALARS = ("edge_texture", "edge_occlusion", "keypoints2d", "keypoints3d", "reshading")


def rooms_source(*, size: int = 128, count: int = 100, pool: int = 2000) -> BenchmarkSource:
    """Return the ten tasks, trained on rooms of the split ``train`` and scored on ``test``.

    Args:
        size: side of the images in pixels.
        count: number of rooms that are scored.
        pool: number of rooms from which training images are drawn.

    Raises:
        InputError: if there is no room to score or to train on.
    """
    if count < 1 or pool < 1:
        raise InputError(f"{count} rooms to score and {pool} to train on: give at least one each")
    train, test = TaskonomyRooms("train", pool, size), TaskonomyRooms("test", count, size)
    make = partial(BenchmarkTask, train=train, test=test)
    depth = partial(Depth, max_depth_m=None, bins=40)
    euclidean = depth(depth_type="euclidean", label="euclidean_depth_m")
    curvature = Values(channels=2, unit="1/m", label="principal_curvature_per_m", bins=40)
    tasks = [
        make("depth_euclidean", euclidean, measure=ValueMeasure),
        make("depth_zbuffer", depth(), measure=ValueMeasure),
        *(make(name, Values(label=name, bins=20), measure=ValueMeasure) for name in _SCALARS),
        make("principal_curvature", curvature, measure=ValueMeasure),
        make("normal", Normals(bins=40), measure=AngleMeasure),
        make("segment_semantic", Segmentation(CLASSES), measure=ClassMeasure),
    ]
    return BenchmarkSource(f"rooms, {size} px, {count} of test", benchmark_tasks(tasks))
