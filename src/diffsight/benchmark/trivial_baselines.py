"""Trivial baselines that every method must beat, and stored predictions of other programs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from diffsight.backbones import BackboneSource
from diffsight.benchmark.measures import map_output, map_spec
from diffsight.benchmark.methods import BenchmarkMethod, Episode, FittedMethod, files_hash
from diffsight.benchmark.source import BenchmarkTask
from diffsight.datasets.base import Sample
from diffsight.errors import InputError
from diffsight.inference.baselines import average_labels
from diffsight.inference.stored import StoredPredictions
from diffsight.ops.resize import resize_label
from diffsight.outputs import Output
from diffsight.training.loop import flat_labels
from diffsight.types import Target


@dataclass(frozen=True)
class Constant(BenchmarkMethod):
    """The constant prediction that scores best on the training images.

    For values it is the mean, or the median if the score is an absolute error. For classes it is
    the most frequent class, or the foreground if the score is the foreground's IoU.
    """

    is_trained: ClassVar[bool] = False

    def fit(self, episode: Episode) -> FittedMethod:
        """Return the best constant over all pixels of the training images."""
        value = constant_maps(episode)
        return _one_by_one(
            lambda sample: map_output(episode.task, value.expand(-1, *sample.image.shape[-2:]))
        )


@dataclass(frozen=True)
class MeanMap(BenchmarkMethod):
    """The mean of the training labels at every pixel: a prediction from the position alone."""

    is_trained: ClassVar[bool] = False

    def fit(self, episode: Episode) -> FittedMethod:
        """Return the mean map at the size of the first label; the constant without valid labels."""
        label, task = episode.task.label, episode.task
        height, width = episode.samples[0].valid[label].shape
        hw = height, width
        classes = map_spec(task).channels if map_spec(task).kind == "classes" else 0
        labels = [(sample.labels[label], sample.valid[label]) for sample in episode.samples]
        mean = average_labels(labels, hw, constant_maps(episode), classes=classes)
        return _one_by_one(
            lambda sample: map_output(
                task, resize_label(mean, (sample.image.shape[-2], sample.image.shape[-1]))
            )
        )


@dataclass(frozen=True)
class Stored(BenchmarkMethod):
    """Predictions of another program: ``DIR/TASK/ID.npy``, ``d h w`` in the unit of the task.

    Attributes:
        folder: folder ``DIR`` of the predictions; a slash in an id is written ``__``. A method that
            was trained on the images of each repeat has its predictions in ``DIR/repNNN``, which
            are preferred.
    """

    folder: Path
    is_trained: ClassVar[bool] = False

    def fit(self, episode: Episode) -> FittedMethod:
        """Return the method that reads the predictions; nothing is trained."""
        spec, task = episode.spec, episode.task
        channels = map_spec(task).channels
        folders = (self.folder / f"rep{episode.repeat:03d}", self.folder)
        of_repeat, of_all = (StoredPredictions(f / spec.name, suffixes=(".npy",)) for f in folders)

        def predict(sample: Sample) -> Output:
            predictions = of_repeat if of_repeat.find(sample.id) else of_all
            return map_output(task, predictions.numbers(sample.id, channels, spec.name))

        return _one_by_one(predict)

    def dependency_hash(
        self, spec: BenchmarkTask, source: BackboneSource, clip: str | Path | None
    ) -> str:
        """Return a hash of the predictions for a task.

        Raises:
            InputError: if there are none.
        """
        folders = sorted(self.folder.glob("rep[0-9]*"))
        if not any((folder / spec.name).is_dir() for folder in (self.folder, *folders)):
            raise InputError(
                f"{self.folder}: no folder {spec.name} with predictions: add it, or choose other "
                "--tasks"
            )
        hashes = [f"{folder.name} {files_hash(folder / spec.name, '*.npy')}" for folder in folders]
        return " ".join([files_hash(self.folder / spec.name, "*.npy"), *hashes])


def constant_maps(episode: Episode) -> Float[Tensor, "d 1 1"]:
    """Return the best constant: values, or probabilities of 1 for one class and 0 for others."""
    name = episode.task.label
    label = flat_labels((sample.labels[name], sample.valid[name]) for sample in episode.samples)
    target = Target(label, torch.ones(1, *label.shape[-2:], dtype=torch.bool))
    value = episode.spec.measure(episode.task).constant(label, target)
    if map_spec(episode.task).kind == "classes":
        value = functional.one_hot(value, map_spec(episode.task).channels).float()
    return value[:, None, None]


def _one_by_one(predict: Callable[[Sample], Output]) -> FittedMethod:
    return FittedMethod(lambda samples: [predict(sample) for sample in samples])
