"""What every method must beat, and predictions that anybody has stored."""

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
from diffsight.inference.baselines import mean_over_images
from diffsight.inference.stored import StoredPredictions
from diffsight.ops.resize import resized_label
from diffsight.outputs import Output
from diffsight.training.loop import flat_labels
from diffsight.types import Target


@dataclass(frozen=True)
class Constant(BenchmarkMethod):
    """The one value that scores best on the training images.

    The median under a measure of absolute errors, else the mean; for classes the most frequent one,
    and where a foreground's IoU is the measure, the foreground.
    """

    is_trained: ClassVar[bool] = False

    def fit(self, episode: Episode) -> FittedMethod:
        """Compute it over all pixels of the training images."""
        value = constant_maps(episode)
        return _one_by_one(
            lambda sample: map_output(episode.task, value.expand(-1, *sample.image.shape[-2:]))
        )


@dataclass(frozen=True)
class MeanMap(BenchmarkMethod):
    """The mean of the training images at every pixel: what the position alone says."""

    is_trained: ClassVar[bool] = False

    def fit(self, episode: Episode) -> FittedMethod:
        """Bring labels to the size of the first; where none is valid, take the constant."""
        label, task = episode.task.label, episode.task
        height, width = episode.samples[0].valid[label].shape
        hw = height, width
        classes = map_spec(task).channels if map_spec(task).kind == "classes" else 0
        labels = [(sample.labels[label], sample.valid[label]) for sample in episode.samples]
        mean = mean_over_images(labels, hw, constant_maps(episode), classes=classes)
        return _one_by_one(
            lambda sample: map_output(
                task, resized_label(mean, (sample.image.shape[-2], sample.image.shape[-1]))
            )
        )


@dataclass(frozen=True)
class Stored(BenchmarkMethod):
    """Anybody's predictions: ``DIR/TASK/ID.npy``, ``d h w`` in the unit of the task.

    Attributes:
        folder: of the predictions; a slash of an id becomes ``__``. Those of one repeat, of a
            method that was trained on its images, are in ``DIR/repNNN`` and come first.
    """

    folder: Path
    is_trained: ClassVar[bool] = False

    def fit(self, episode: Episode) -> FittedMethod:
        """Read the predictions; nothing is trained."""
        spec, task = episode.spec, episode.task
        channels = map_spec(task).channels
        folders = (self.folder / f"rep{episode.repeat:03d}", self.folder)
        of_repeat, of_all = (StoredPredictions(f / spec.name, suffixes=(".npy",)) for f in folders)

        def predict(sample: Sample) -> Output:
            stored = of_repeat if of_repeat.find(sample.id) else of_all
            return map_output(task, stored.numbers(sample.id, channels, spec.name))

        return _one_by_one(predict)

    def dependency_hash(
        self, spec: BenchmarkTask, source: BackboneSource, clip: str | Path | None
    ) -> str:
        """Return the hash of the predictions."""
        folders = (self.folder, *sorted(self.folder.glob("rep[0-9]*")))
        hashes = [f"{one.name} {files_hash(one / spec.name, '*.npy')}" for one in folders[1:]]
        return " ".join([files_hash(self.folder / spec.name, "*.npy"), *hashes])


def constant_maps(episode: Episode) -> Float[Tensor, "d 1 1"]:
    """Return the best constant: values, or 1 for a class and 0 for the others."""
    name = episode.task.label
    label = flat_labels((sample.labels[name], sample.valid[name]) for sample in episode.samples)
    target = Target(label, torch.ones(1, *label.shape[-2:], dtype=torch.bool))
    value = episode.spec.measure(episode.task).constant(label, target)
    if map_spec(episode.task).kind == "classes":
        value = functional.one_hot(value, map_spec(episode.task).channels).float()
    return value[:, None, None]


def _one_by_one(predict: Callable[[Sample], Output]) -> FittedMethod:
    return FittedMethod(lambda samples: [predict(sample) for sample in samples])
