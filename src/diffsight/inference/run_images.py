"""Predict images and write the results; images that cannot be used are reported and skipped."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
Results = Mapping[Path, Mapping[str, Any]]  # metadata or errors, by the same path
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
        report: called with the metadata or the error of every image, in order.

    Raises:
        InputError: if not even one image fits into the memory.
    """
    for part in split_into_batches(jobs, models):
        for one in models:
            predict_batch(part, one, prompts, report)


def split_into_batches(jobs: Sequence[Job], models: Sequence[LoadedModel]) -> list[Sequence[Job]]:
    """Return the images in parts that run together, which begin at multiples of the batch size.

    Numbers depend on the batch in their last digits. With fixed parts they do not depend on which
    process predicts an image. Several models run image by image, so that features of a common
    backbone are computed once.
    """
    size = models[0].predictor.plan.batch_size if len(models) == 1 else 1
    return [jobs[i : i + size] for i in range(0, len(jobs), size)]


def predict_batch(
    jobs: Sequence[Job],
    one: LoadedModel,
    prompts: Prompts,
    report: Report,
    earlier: Results | None = None,
) -> None:
    """Predict and write images that run together, and report them in order.

    Args:
        jobs: images with the names of their results.
        one: model with the folder of its results.
        prompts: prompt of every image.
        report: called with the metadata or the error of every image.
        earlier: finished results of an interrupted run, which are not written again. The images
            take part in the batch if another image of it is not finished.

    Raises:
        InputError: if not even one image fits into the memory.
    """
    batch = _Batch(one, prompts, earlier or {})
    try:
        if len(batch.earlier) == len(jobs):
            batch.results.update(batch.earlier)
        else:
            batch.predict(jobs)
    finally:
        for job in jobs:
            if job.name in batch.results:
                report(one.out, job, batch.results[job.name])


@dataclass(frozen=True)
class _Batch:
    """Images that run together.

    Attributes:
        one: model with the folder of its results.
        prompts: prompt of every image.
        earlier: finished results of an interrupted run.
        results: results so far.
    """

    one: LoadedModel
    prompts: Prompts
    earlier: Results
    results: dict[Path, Mapping[str, Any]] = field(default_factory=dict)

    def predict(self, jobs: Sequence[Job]) -> None:
        """Predict and write images; after a lack of memory, each alone.

        Raises:
            InputError: if not even one image fits into the memory.
        """
        remaining = iter(jobs)
        # an error ends the stream of predictions; the next call continues after it
        while failed := self._predict_until_too_large(remaining):
            too_large, message = failed
            give_back_memory()
            if not too_large:
                raise InputError(message)
            if len(too_large) == 1:
                (job,) = too_large
                self.results[job.name] = error_record(job, InputError(message))
                continue
            for job in too_large:
                self.predict([job])

    def _predict_until_too_large(self, jobs: Iterator[Job]) -> tuple[Sequence[Job], str] | None:
        """Predict and write; return images that need too much memory, with the error message."""
        waiting: deque[tuple[Job, Tensor, People | None, Rig | None]] = deque()

        def images() -> Iterator[Tensor]:
            for job in jobs:
                if (inputs := self._read(job)) is not None:
                    waiting.append((job, *inputs))
                    yield inputs[0]

        # these generators run after the image of the same index was read
        texts = (self.prompts[waiting[-1][0].name] for _ in itertools.count())
        people = (waiting[-1][2] for _ in itertools.count())
        rigs = (waiting[-1][3] for _ in itertools.count())
        try:
            for prediction, compared in self.one.predict(images(), texts, people, rigs):
                job, image, *_ = waiting.popleft()
                about = self.earlier.get(job.name)
                self.results[job.name] = about or self._write(job, image, prediction, compared)
        except TooLargeError as error:
            return [job for job, *_ in waiting], str(error)
        return None

    def _write(
        self, job: Job, image: Tensor, prediction: Prediction, compared: StepComparison | None
    ) -> Mapping[str, Any]:
        notes = self.one.notes_for(self.prompts[job.name])
        if compared is not None:
            notes["steps_compared"] = compared.rows()
        advice = f"{job.source}: not enough memory for its output files: give a smaller image"
        try:
            with report_out_of_memory(advice):
                pictures = compared and {"steps": compared.picture(image)}
                return write_prediction(prediction, self.one.out, job, notes, image, pictures)
        except InputError as error:
            return unwritten_record(job, self.one.out, error)

    def _read(self, job: Job) -> tuple[Tensor, People | None, Rig | None] | None:
        """Return an image with its people or cameras; None if it cannot be used."""
        model = self.one.predictor.model
        try:
            image, rig = _read_file(job, requires_rig=model.reads_rig)
            self.one.predictor.plan.working_hw(*image.shape[-2:])
            if rig is not None:
                check_rig(model, job.image, rig)
            people = self.one.find_people and self.one.find_people(image, job.image)
        except InputError as error:
            self.results[job.name] = error_record(job, error)
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


def unwritten_record(job: Job, out: AnyPath, error: InputError) -> dict[str, Any]:
    """Return the JSON record of an image whose results cannot be written.

    Args:
        job: image with the name of its results.
        out: folder of the results, or its URL.
        error: error of writing them.

    Raises:
        InputError: if no other image could be written either: the disk is full, or ``out`` is an
            object store that cannot be written to.
    """
    if not isinstance(error, OverwriteError | TooLargeError) and (
        not isinstance(out, Path) or storage.is_disk_full(error)
    ):
        raise error
    if storage.is_name_too_long(error):
        error = InputError("the names of its results would be too long: give it a shorter name")
    return error_record(job, error)
