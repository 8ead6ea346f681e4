"""What the few-shot benchmark compares methods on: tasks, each with its data sets."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from diffsight.benchmark.measures import AbstractMeasure, TaskMeasure
from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.labelled_folder import sample_values
from diffsight.errors import InputError
from diffsight.outputs import LabelCodec
from diffsight.tasks.base import AbstractTask

Codebook = Callable[[Float[Tensor, "m d"], int | None], LabelCodec]


@dataclass(frozen=True)
class BenchmarkTask:
    """A task with images to train on and images to score.

    Attributes:
        name: such as ``depth_euclidean``.
        task: what its labels mean, with bins that are fitted to the training images.
        train: training images are drawn from it.
        test: its images are scored. A label may have another size than its image: predictions are
            brought to the size of the label.
        measure: how predictions are scored; default: by the task's own metric.
        codebook: makes the classes of the labels from the values of the training images and the
            number of classes, None for the usual one; default: the task's own.
    """

    name: str
    task: AbstractTask
    train: AbstractDataset
    test: AbstractDataset
    measure: Callable[[AbstractTask], AbstractMeasure] = TaskMeasure
    codebook: Codebook | None = None

    @property
    def has_values(self) -> bool:
        """Whether the classes of the labels have values, as bins or codebook vectors."""
        return self.task.outputs[0].codec is not None

    @property
    def is_one_number(self) -> bool:
        """Whether a label is one number per pixel, in bins that may be changed."""
        codec = self.task.outputs[0].codec
        changeable = inspect.signature(type(self.task)).parameters.keys() >= {"bins", "alpha"}
        one = codec is not None and codec.centres.shape[1] == 1
        return self.codebook is None and one and changeable

    def fitted(self, samples: Sequence[Sample], **options: Any) -> AbstractTask:
        """Return the task for these training images.

        It has as many bins as the options say, or as there are different labels, if that is less.

        Args:
            samples: training images.
            options: of the task's constructor; one that the task does not have plays no part.

        Raises:
            InputError: if the labels cannot be learned.
        """
        if not self.task.needs_fitting:
            return self.task
        values = sample_values(samples, self.task.label)
        known = inspect.signature(type(self.task)).parameters
        given = {name: value for name, value in options.items() if name in known}
        if self.codebook is not None:
            return self.task.with_codec(self.codebook(values, given.get("bins")), **given)
        arguments = {**self.task._arguments, **given}
        if isinstance(arguments.get("bins"), int):
            arguments["bins"] = min(arguments["bins"], len(values.unique(dim=0)))
        return type(self.task)(**arguments).fitted(values)


@dataclass
class BenchmarkSource:
    """Tasks that are compared together.

    Attributes:
        name: of the data and of what was chosen of it; part of every result.
        tasks: by name.
        notes: what is missing, for the user.
        skipped: files that cannot be read, with the reason; filled while reading.
    """

    name: str
    tasks: Mapping[str, BenchmarkTask]
    notes: tuple[str, ...] = ()
    skipped: list[str] = field(default_factory=list)

    def read(self, dataset: AbstractDataset, index: int) -> Sample | None:
        """Return a sample; None, and a line in ``skipped``, if a file is damaged."""
        try:
            return dataset[index]
        except InputError as error:
            if str(error) not in self.skipped:
                self.skipped.append(str(error))
            return None


def benchmark_tasks(tasks: Sequence[BenchmarkTask]) -> dict[str, BenchmarkTask]:
    """Return the tasks by name."""
    return {task.name: task for task in tasks}
