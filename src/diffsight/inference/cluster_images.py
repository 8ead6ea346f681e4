"""Predict images on a cluster: every worker loads the models, and writes the results itself."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffsight.errors import InputError
from diffsight.inference.ray_engine import ATTEMPTS, Cluster, map_groups
from diffsight.inference.run_images import (
    LoadedModel,
    Prompts,
    error_record,
    predict_batch,
    split_into_batches,
)
from diffsight.inference.storage import AnyPath
from diffsight.inference.unfinished import UnfinishedRun, find_finished
from diffsight.inference.write import Job

GROUP_IMAGES = 8  # that a worker gets at a time
MAX_GROUPS = 10_000  # that the driver lists in advance
GROUPS_PER_WORKER = 4  # at least, so that the workers end at about the same time


@dataclass(frozen=True)
class ImageResult:
    """The result of one image with one model.

    Attributes:
        folder: folder of the results, or its URL.
        job: image.
        about: metadata, as in the JSON file, or the error.
        is_earlier: whether an earlier run wrote the results.
    """

    folder: AnyPath
    job: Job
    about: Mapping[str, Any]
    is_earlier: bool = False


@dataclass(frozen=True)
class ImageGroup:
    """Images that a worker gets together, with their prompts."""

    jobs: Sequence[Job]
    prompts: Prompts


@dataclass(frozen=True)
class ImageWork:
    """The work of one worker: models in memory, which predict groups of images.

    Attributes:
        models: models with the folders of their results.
        run: run that may have been interrupted.
    """

    models: Sequence[LoadedModel]
    run: UnfinishedRun

    def __call__(self, group: ImageGroup) -> list[ImageResult]:
        """Return the results of a group, in the order in which one process predicts it."""
        results: list[ImageResult] = []
        for part in split_into_batches(group.jobs, self.models):
            for one in self.models:
                results += self._predict(part, one, group.prompts)
        return results

    def _predict(
        self, jobs: Sequence[Job], one: LoadedModel, prompts: Prompts
    ) -> list[ImageResult]:
        """Predict the images of a batch, unless this run has finished all of them."""
        every = {job.name: find_finished(self.run, one, job, prompts[job.name]) for job in jobs}
        earlier = {name: about for name, about in every.items() if about is not None}
        results: list[ImageResult] = []

        def report(folder: AnyPath, job: Job, about: Mapping[str, Any]) -> None:
            results.append(ImageResult(folder, job, about, is_earlier=job.name in earlier))

        predict_batch(jobs, one, prompts, report, earlier)
        return results


@dataclass(frozen=True)
class MakeImageWork:
    """Makes the work of a worker, in its process.

    Attributes:
        load: function that returns the models.
        fingerprints: their fingerprints.
        run: run that may have been interrupted.
    """

    load: Callable[[], Sequence[LoadedModel]]
    fingerprints: Sequence[str]
    run: UnfinishedRun

    def __call__(self) -> ImageWork:
        """Return the work.

        Raises:
            InputError: if this machine does not see the output folder, or cannot use a model.
        """
        self.run.require_visible()
        models = self.load()
        for one, fingerprint in zip(models, self.fingerprints, strict=True):
            if one.notes["model"]["fingerprint"] != fingerprint:
                raise InputError(
                    f"{one.notes['model']['id']}: this machine has another model at this path: "
                    "copy the model to all machines, or give a folder that they share"
                )
        return ImageWork(models, self.run)


def predict_on_cluster(
    jobs: Sequence[Job],
    prompts: Mapping[Path, str | None],
    make: MakeImageWork,
    cluster: Cluster,
    batch_size: int,
) -> Iterator[ImageResult]:
    """Yield the results of all images in order; the workers write the files.

    Args:
        jobs: images with the names of their results.
        prompts: prompt of every image.
        make: makes the work of a worker.
        cluster: where the workers run.
        batch_size: number of images that run together.

    Raises:
        InputError: if the workers cannot start, or one of them cannot use a model or the folder.
    """
    workers = cluster.workers or 1
    size = max(1, min(GROUP_IMAGES, len(jobs) // (GROUPS_PER_WORKER * workers)))
    size = max(size, len(jobs) // MAX_GROUPS)
    size = batch_size * math.ceil(size / batch_size)  # whole batches
    parts = [jobs[i : i + size] for i in range(0, len(jobs), size)]
    lost = set(range(len(parts)))
    for index, results in map_groups(_with_prompts(parts, prompts), make, cluster):
        lost.discard(index)
        yield from results
    ended = InputError(
        f"all workers ended {ATTEMPTS} times, perhaps for lack of memory: give fewer --workers, or "
        "a smaller --short-side"
    )
    if len(lost) == len(parts) > 1:
        raise ended
    # one of these images ends its worker: each alone
    singles = [[job] for index in sorted(lost) for job in parts[index]]
    lost = set(range(len(singles)))
    for index, results in map_groups(_with_prompts(singles, prompts), make, cluster):
        lost.discard(index)
        yield from results
    if len(parts) == 1 and 0 < len(lost) == len(singles):
        raise ended
    for index in sorted(lost):
        (job,) = singles[index]
        message = f"its worker ended {ATTEMPTS} times, perhaps for lack of memory"
        error = InputError(f"{job.source}: {message}: give a smaller image")
        for _ in make.fingerprints:  # once for each model
            yield ImageResult(make.run.out, job, error_record(job, error))


def _with_prompts(
    parts: Sequence[Sequence[Job]], prompts: Mapping[Path, str | None]
) -> list[ImageGroup]:
    return [ImageGroup(part, {job.name: prompts[job.name] for job in part}) for part in parts]
