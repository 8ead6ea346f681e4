"""Predict images and write the results; images that cannot be used are reported and skipped."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from diffsight.datasets.rig_file import read_image_or_rig
from diffsight.errors import InputError, TooLargeError
from diffsight.inference import storage
from diffsight.inference.compare_steps import StepComparison, compare_steps
from diffsight.inference.pipeline import check_rig
from diffsight.inference.predictor import Predictor
from diffsight.inference.storage import AnyPath
from diffsight.inference.write import Job, OverwriteError, write_prediction
from diffsight.ops.memory import give_back_memory, report_out_of_memory
from diffsight.rig import Rig
from diffsight.tasks import Prediction
from diffsight.types import People

Prompts = Mapping[Path, str | None]  # by the path of the result without its ending
Report = Callable[[AnyPath, Job, Mapping[str, Any]], None]
"""Takes the folder of the results, an image, and its metadata or error."""


@dataclass(frozen=True)
class LoadedModel:
    """A predictor, the folder of its results, and metadata for their JSON files.

    Attributes:
        predictor: model and plan.
        out: folder of the results, or its URL.
        notes: metadata about the model and its options.
        find_people: function that takes an image and its path; None for models without regions.
        steps: numbers of steps to compare.
    """

    predictor: Predictor
    out: AnyPath
    notes: Mapping[str, Any]
    find_people: Callable[[Tensor, Path], People] | None
    steps: Sequence[int] = ()

    def notes_for(self, prompt: str | None) -> dict[str, Any]:
        """Return the metadata for an image with this prompt."""
        return {**self.notes, "expression": prompt if self.notes["scene"] is None else None}

    def predict(
        self,
        images: Iterator[Tensor],
        prompts: Iterator[str | None],
        people: Iterator[People | None],
        rigs: Iterator[Rig | None],
    ) -> Iterator[tuple[Prediction, StepComparison | None]]:
        """Yield the prediction of every image, and its comparison of several numbers of steps."""
        if len(self.steps) < 2:
            yield from zip(self.predictor(images, prompts, people, rigs), itertools.repeat(None))
            return
        for image, prompt, boxes, rig in zip(images, prompts, people, rigs, strict=False):
            compared = compare_steps(self.predictor, self.steps, image, prompt, boxes, rig)
            yield compared.predictions[-1], compared


def predict_images(
    jobs: Sequence[Job], models: Sequence[LoadedModel], prompts: Prompts, report: Report
) -> None:
    """Predict and write images with all models.

    Args:
        jobs: images with the names of their results.
        models: models with the folders of their results.
        prompts: prompt of every image.
        report: called with the metadata or the error of every image.

    Raises:
        InputError: if not even one image fits into the memory.
    """
    # several models run image by image, so that features of a common backbone are computed once
    for part in [jobs] if len(models) == 1 else [[job] for job in jobs]:
        for one in models:
            _predict_with(part, one, prompts, report)


def _predict_with(jobs: Sequence[Job], one: LoadedModel, prompts: Prompts, report: Report) -> None:
    """Predict and write images with one model."""
    remaining = iter(jobs)
    # an error ends the stream of predictions; the next call continues after it
    while failed := _run_until_too_large(remaining, one, prompts, report):
        jobs, message = failed
        give_back_memory()
        if not jobs:
            raise InputError(message)
        if len(jobs) == 1:
            report(one.out, jobs[0], error_record(jobs[0], InputError(message)))
            continue
        for job in jobs:  # images of one batch: try each alone
            _predict_with([job], one, prompts, report)


def _run_until_too_large(
    jobs: Iterator[Job], one: LoadedModel, prompts: Prompts, report: Report
) -> tuple[Sequence[Job], str] | None:
    """Predict and write; return images that need too much memory, with the error message."""
    waiting: deque[tuple[Job, Tensor, People | None, Rig | None]] = deque()

    def images() -> Iterator[Tensor]:
        for job in jobs:
            if (inputs := _read(job, one, report)) is not None:
                waiting.append((job, *inputs))
                yield inputs[0]

    # these generators run after the image of the same index was read
    texts = (prompts[waiting[-1][0].name] for _ in itertools.count())
    people = (waiting[-1][2] for _ in itertools.count())
    rigs = (waiting[-1][3] for _ in itertools.count())
    try:
        for prediction, compared in one.predict(images(), texts, people, rigs):
            job, image, *_ = waiting.popleft()
            _write(prediction, compared, image, one, job, prompts, report)
    except TooLargeError as error:
        return [job for job, *_ in waiting], str(error)
    return None


def _write(
    prediction: Prediction,
    compared: StepComparison | None,
    image: Tensor,
    one: LoadedModel,
    job: Job,
    prompts: Prompts,
    report: Report,
) -> None:
    notes = one.notes_for(prompts[job.name])
    if compared is not None:
        notes["steps_compared"] = compared.rows()
    advice = f"{job.source}: not enough memory for its output files: give a smaller image"
    try:
        with report_out_of_memory(advice):
            pictures = compared and {"steps": compared.picture(image)}
            about = write_prediction(prediction, one.out, job, notes, image, pictures)
    except (OverwriteError, TooLargeError) as error:
        about = {"image": str(job.source), "error": str(error)}
    report(one.out, job, about)


def _read(
    job: Job, one: LoadedModel, report: Report
) -> tuple[Tensor, People | None, Rig | None] | None:
    """Return an image with its people or cameras; report it if it cannot be used."""
    try:
        image, rig = _read_file(job, requires_rig=one.predictor.model.reads_rig)
        one.predictor.plan.working_hw(*image.shape[-2:])
        if rig is not None:
            check_rig(one.predictor.model, job.image, rig)
        people = one.find_people and one.find_people(image, job.image)
    except InputError as error:
        report(one.out, job, error_record(job, error))
        return None
    return image, people, rig


def _read_file(job: Job, *, requires_rig: bool) -> tuple[Tensor, Rig | None]:
    if job.url is None:
        return read_image_or_rig(job.image, requires_rig=requires_rig)
    if requires_rig:
        raise InputError(f"{job.url}: the model reads several cameras: copy the files to a folder")
    return storage.read_image(job.url), None


def error_record(job: Job, error: InputError) -> dict[str, Any]:
    """Return the JSON record of an image that cannot be used; its message names the image."""
    message = str(error)
    if str(job.source) not in message:
        message = f"{job.source}: {message}"
    return {"image": str(job.source), "error": message}
