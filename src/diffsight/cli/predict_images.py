"""Predict the images of ``diffsight predict``; those that cannot be used are reported."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffsight.cli import options
from diffsight.cli.predict_models import LoadedModel, Prompts
from diffsight.errors import InputError, TooLargeError

if TYPE_CHECKING:
    from torch import Tensor

    from diffsight.inference.compare_steps import StepComparison
    from diffsight.inference.write import Job
    from diffsight.rig import Rig
    from diffsight.tasks import Prediction
    from diffsight.types import People

Report = Callable[[Path, "Job", Mapping[str, Any]], None]
"""Takes the folder of the results, an image, and its metadata or error."""


def predict_images(
    jobs: "Sequence[Job]", one: LoadedModel, prompts: Prompts, report: Report
) -> None:
    """Predict and write all images; images that cannot be used are reported and skipped."""
    from diffsight.ops.memory import give_back_memory

    remaining = iter(jobs)
    # an error ends the stream of predictions; the next call continues after it
    while failed := _run_until_too_large(remaining, one, prompts, report):
        jobs, message = failed
        give_back_memory()
        if not jobs:
            raise InputError(message)
        if len(jobs) == 1:
            report(one.out, jobs[0], options.error_record(jobs[0], InputError(message)))
            continue
        for job in jobs:  # images of one batch: try each alone
            predict_images([job], one, prompts, report)


def _run_until_too_large(
    jobs: "Iterator[Job]", one: LoadedModel, prompts: Prompts, report: Report
) -> "tuple[Sequence[Job], str] | None":
    """Predict and write; return images that need too much memory, with the error message."""
    waiting: deque[tuple[Job, Tensor, People | None, Rig | None]] = deque()

    def images() -> Iterator["Tensor"]:
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
    prediction: "Prediction",
    compared: "StepComparison | None",
    image: "Tensor",
    one: LoadedModel,
    job: "Job",
    prompts: Prompts,
    report: Report,
) -> None:
    from diffsight.inference.write import OverwriteError, write_prediction
    from diffsight.ops.memory import report_out_of_memory

    sentence = prompts[job.name] if one.notes["scene"] is None else None
    notes = {**one.notes, "expression": sentence}
    if compared is not None:
        notes["steps_compared"] = compared.rows()
    advice = f"{job.image}: not enough memory for its output files: give a smaller image"
    try:
        with report_out_of_memory(advice):
            pictures = compared and {"steps": compared.picture(image)}
            about = write_prediction(prediction, one.out, job, notes, image, pictures)
    except (OverwriteError, TooLargeError) as error:
        about = {"image": str(job.image), "error": str(error)}
    report(one.out, job, about)


def _read(
    job: "Job", one: LoadedModel, report: Report
) -> "tuple[Tensor, People | None, Rig | None] | None":
    """Return an image with its people or cameras; report it if it cannot be used."""
    from diffsight.datasets.rig_file import read_image_or_rig
    from diffsight.inference.pipeline import check_rig

    try:
        image, rig = read_image_or_rig(job.image, requires_rig=one.predictor.model.reads_rig)
        one.predictor.plan.working_hw(*image.shape[-2:])
        if rig is not None:
            check_rig(one.predictor.model, job.image, rig)
        people = one.find_people and one.find_people(image, job.image)
    except InputError as error:
        report(one.out, job, options.error_record(job, error))
        return None
    return image, people, rig
