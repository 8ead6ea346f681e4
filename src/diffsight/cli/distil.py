"""``diffsight distil``: train a small, fast model on the predictions of a model."""

import logging
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

from diffsight.adaptation.options import DistilOptions
from diffsight.atomic import remove_leftovers_of
from diffsight.choices import TrainingDtype
from diffsight.cli import options
from diffsight.cli.adapt import check_out, remove_other_state
from diffsight.cli.console import progress, write_line
from diffsight.cli.flags import Flag, command
from diffsight.formats.durations import format_duration
from diffsight.locks import claim_name

log = logging.getLogger(__name__)


@command("distil", excluded=("state",), claim=claim_name)
def main(
    *,
    model: options.Model,
    images: options.Images,
    out: Annotated[Path, Flag("NAME")],
    overwrite: bool = False,
    resume: bool = False,
    training: partial[DistilOptions],
    dtype: TrainingDtype = "float32",
    run: options.ModelOptions,
) -> int:
    """Train a small, fast model (a student) on the predictions of a model (its teacher).

    The student is a convolutional network of less than 5 MB. It learns the predictions and the
    uncertainty of the teacher on images without labels; a tenth of them is held out to measure how
    well both agree. Images that cannot be used are left out, and the exit status is then 1.

    Args:
        out: student to write: a file that ends in .safetensors, or a folder.
        overwrite: replace an existing student (default: stop with an error).
        resume: continue an interrupted training of this student.
        training: training of the student.
        run: backbone and device of the teacher.

    Example:
        diffsight distil --model mine.safetensors --images photos --out small.safetensors
    """
    state = out.parent / f"{out.name}.resume"
    remove_leftovers_of(state)
    remove_other_state(state, is_folder=True, overwrite=overwrite and not resume)
    check_out(out, overwrite or resume, state.exists() and not resume, noun="training")

    from diffsight import hub
    from diffsight.adaptation.distil import Distillation, check_teacher
    from diffsight.cli.show import describe
    from diffsight.inference.write import find_images

    paths = [job.image for job in find_images(images)]
    teacher = run.load(model)
    check_teacher(teacher)
    settings = training(dtype=dtype, state=state, resume=resume)
    distillation = Distillation(teacher, paths, settings)
    with progress("predicting", len(distillation.paths)) as advance:
        distillation.predict(advance)
    trained_on, held_out = len(distillation.trained_on), len(distillation.held_out)
    left = format_duration(distillation.forecast())
    text = "training on %d images (%d more are held out), %d steps, about %s"
    log.info(text, trained_on, held_out, settings.steps, left)
    with progress("training", settings.steps, done=distillation.steps_done) as advance:
        student = distillation.train(lambda step, losses: advance())
    hub.save(student, out)
    distillation.remove_state()
    for error in distillation.errors.values():
        write_line(error)
    sys.stdout.write(describe(hub.read_config(out), str(out)) + "\n")
    return options.SOME_FAILED if distillation.errors else 0
