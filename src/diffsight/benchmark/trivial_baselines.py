"""What every method must beat, and what anybody predicted."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from diffsight.benchmark.entrant import AbstractEntrant, Learned, Lesson, files_hash
from diffsight.datasets.source import Labelled, SourceTask
from diffsight.errors import InputError
from diffsight.hub.task_file import Base
from diffsight.ops.resize import resized_label
from diffsight.tasks.classes import Classes


@dataclass(frozen=True)
class Constant(AbstractEntrant):
    """The one value that scores best on the support: the floor.

    The median under a measure of absolute errors, else the mean; for classes the most frequent one,
    and where a foreground's IoU is the measure, the foreground.
    """

    def learn(self, lesson: Lesson) -> Learned:
        """Over all pixels of the support."""
        value = _constant(lesson)[:, None, None]
        return Learned(lambda query: value.expand(-1, *query.valid.shape))


@dataclass(frozen=True)
class MeanMap(AbstractEntrant):
    """The support's mean at every pixel: what the place in the picture alone tells."""

    def learn(self, lesson: Lesson) -> Learned:
        """Labels are brought to the size of the first; where none is valid, the constant."""
        examples = lesson.support.examples
        height, width = examples[0].valid.shape
        hw = height, width
        total, count = torch.zeros(()), torch.zeros(hw)
        for example in examples:
            value, known = (resized_label(x, hw) for x in (example.value, example.valid[None]))
            if isinstance(lesson.task, Classes):
                value = functional.one_hot(value[0].long(), lesson.task.num_outputs).movedim(-1, 0)
            total, count = total + value * known, count + known[0]
        blind = _constant(lesson)[:, None, None].expand(-1, *hw)
        mean = torch.where(count > 0, total / count.clamp(min=1), blind)
        return Learned(
            lambda query: resized_label(mean, (query.valid.shape[0], query.valid.shape[1]))
        )


@dataclass(frozen=True)
class Stored(AbstractEntrant):
    """Anybody's predictions: ``DIR/TASK/ID.npy``, ``d h w`` in the unit of the task.

    Attributes:
        folder: of the predictions; a slash of an id becomes ``__``.
    """

    folder: Path

    def learn(self, lesson: Lesson) -> Learned:
        """Nothing to learn."""

        def answer(query: Labelled) -> Tensor:
            path = self.folder / lesson.spec.name / f"{query.id.replace('/', '__')}.npy"
            try:
                values = np.load(path, allow_pickle=False)
            except (OSError, ValueError) as error:
                raise InputError(f"{path}: no prediction there ({error})") from None
            if values.ndim == 2:
                values = values[None]
            task = lesson.task
            depth = task.num_outputs if isinstance(task, Classes) else len(query.value)
            if values.ndim != 3 or len(values) != depth or values.dtype.kind not in "fiu":
                raise InputError(
                    f"{path}: {values.dtype} of {' x '.join(map(str, values.shape))}, but a "
                    f"prediction of {lesson.spec.name} is {depth} channel(s) x height x width"
                )
            if not np.isfinite(values).all():
                raise InputError(f"{path}: holds NaN or infinity: predict a number for every pixel")
            return torch.from_numpy(values.astype(np.float32))

        return Learned(answer)

    def content(self, spec: SourceTask, base: Base, clip: str | None) -> str:
        """The predictions'."""
        return files_hash(self.folder / spec.name, "*.npy")


def _constant(lesson: Lesson) -> Float[Tensor, " d"]:
    columns = [e.value.movedim(0, -1)[e.valid] for e in lesson.support.examples]
    flat = torch.cat(columns).T[None, :, None]
    known = torch.ones(1, 1, flat.shape[-1], dtype=torch.bool)
    value = lesson.task.constant(flat, known)
    if lesson.spec.measure == "vtm_mae":
        value = flat[0, :, 0].median(dim=1).values
    elif lesson.spec.scoring == "binary":
        value = torch.ones(1)
    if isinstance(lesson.task, Classes):
        value = functional.one_hot(value.long()[0], lesson.task.num_outputs).float()
    return value
