"""The tasks on which the few-shot benchmark compares methods, and their data sets."""

import hashlib
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
"""A function from labels and a number of classes (None for the default) to a fitted codec."""


@dataclass(frozen=True)
class BenchmarkTask:
    """A task with a data set to train on and a data set to score.

    Attributes:
        name: name of the task, such as ``depth_euclidean``.
        task: kind of label; its bins or codebook are fitted to the training images.
        train: data set from which training images are drawn.
        test: data set whose images are scored. A label may have another size than its image;
            predictions are resized to the label.
        measure: class or function that makes the measure of a task; default: the task's own metric.
        codebook: function that fits the codec of the labels; default: the task's own.
    """

    name: str
    task: AbstractTask
    train: AbstractDataset
    test: AbstractDataset
    measure: Callable[[AbstractTask], AbstractMeasure] = TaskMeasure
    codebook: Codebook | None = None

    @property
    def has_values(self) -> bool:
        """Whether the labels are values that are encoded by bins or codebook vectors."""
        return self.task.outputs[0].codec is not None

    @property
    def is_one_number(self) -> bool:
        """Whether a label is one value per pixel, and its number of bins can be changed."""
        codec = self.task.outputs[0].codec
        has_options = inspect.signature(type(self.task)).parameters.keys() >= {"bins", "alpha"}
        is_scalar = codec is not None and codec.centres.shape[1] == 1
        return self.codebook is None and is_scalar and has_options

    def fitted(self, samples: Sequence[Sample], **options: Any) -> AbstractTask:
        """Return the task with bins or a codebook that are fitted to training images.

        The number of bins is that of the options, or the number of different labels if that is
        smaller.

        Args:
            samples: training images.
            options: options of the task's constructor; options that the task does not have are
                ignored.

        Raises:
            InputError: if nothing can be fitted to the labels, for example because all are equal.
        """
        if not self.task.needs_fitting:
            return self.task
        values = sample_values(samples, self.task.label)
        parameters = inspect.signature(type(self.task)).parameters
        options = {name: value for name, value in options.items() if name in parameters}
        if self.codebook is not None:
            return self.task.with_codec(self.codebook(values, options.get("bins")), **options)
        arguments = {**self.task._arguments, **options}
        if isinstance(arguments.get("bins"), int):
            arguments["bins"] = min(arguments["bins"], len(values.unique(dim=0)))
        return type(self.task)(**arguments).fitted(values)


@dataclass
class BenchmarkSource:
    """The tasks of a benchmark.

    Attributes:
        name: name of the data and of the choices made in it; part of every result.
        tasks: tasks by name.
        notes: messages for the user about missing data.
        skipped: errors of samples that could not be read; filled while reading.
    """

    name: str
    tasks: Mapping[str, BenchmarkTask]
    notes: tuple[str, ...] = ()
    skipped: list[str] = field(default_factory=list)

    def read(self, dataset: AbstractDataset, index: int) -> Sample | None:
        """Return a sample; for a damaged file add a line to ``skipped`` and return None."""
        try:
            return dataset[index]
        except InputError as error:
            if str(error) not in self.skipped:
                self.skipped.append(str(error))
            return None


def benchmark_tasks(tasks: Sequence[BenchmarkTask]) -> dict[str, BenchmarkTask]:
    """Return the tasks by name."""
    return {task.name: task for task in tasks}


def digest_of(*lists: Sequence[str]) -> str:
    """Return the first digits of a hash of lists of image names, for the name of a source."""
    text = "\n\n".join("\n".join(names) for names in lists)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
