"""A model that is trained while its labels change."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from diffsight.backbones import BackboneSource
from diffsight.methods import FeatureHead
from diffsight.methods.base import AbstractMethod, FitSettings
from diffsight.model import DenseModel
from diffsight.outputs import Output, OutputSpec
from diffsight.studio.features import Features
from diffsight.studio.state import LabelClass
from diffsight.studio.strokes import LabelMap
from diffsight.tasks import AbstractTask, Segmentation, Values
from diffsight.training.loop import (
    Example,
    Views,
    few_shot_batches,
    few_shot_losses,
    fit_statistics,
    train,
)
from diffsight.training.state import load_trained_state, trained_state
from diffsight.training.step import TrainingStep
from diffsight.types import Inputs, Target

STEPS = 150  # after a change of the labels


def build_encoder(source: BackboneSource) -> AbstractMethod:
    """Return a method that computes the features of a backbone; it has two classes."""
    method: AbstractMethod = FeatureHead.from_backbone(source)(output=OutputSpec("classes", 2))
    return method.eval()


def class_task(classes: Sequence[LabelClass]) -> AbstractTask:
    """Return the task of a segmentation with at least two classes."""
    return Segmentation([one.name for one in classes], colours=[one.rgb for one in classes])


def scalar_task(values: Sequence[float], unit: str) -> AbstractTask:
    """Return the task of a scalar, with bins that are fitted to at least two labels."""
    task = Values(unit=unit, bins="auto", spacing="linear")
    return task.fitted(torch.tensor(values, dtype=torch.float32)[:, None])


def make_views(task: AbstractTask, features: Features, labels: LabelMap) -> Views:
    """Return an image and its mirror image as training examples.

    Args:
        task: task of the labels.
        features: features of both.
        labels: labels at the size at which the backbone saw the image.
    """
    values, valid = torch.from_numpy(labels.values), torch.from_numpy(labels.is_labelled)
    label = torch.where(valid, values, 0.0)
    label = label.round().long() if task.class_names else label[None]
    assert features.mirrored is not None
    sides = (
        (features.plain, label, valid),
        (features.mirrored, task.mirror_label(label), valid.flip(-1)),
    )
    views = []
    for encoded, one, mask in sides:
        target = Target(one[None], mask[None])
        soft = task.encode_label(target.label)
        views.append(Example(blank_inputs(features), encoded, target, soft))
    return tuple(views)


def blank_inputs(features: Features) -> Inputs:
    """Return inputs with the size of an image; its pixels are not used, only its features are."""
    return Inputs(torch.zeros(1, 1, 1, 1).expand(1, 3, *features.hw))


def distinct_labels(labels: Sequence[LabelMap]) -> list[float]:
    """Return the different labels of several label maps, in ascending order."""
    rows = [np.unique(one.values[one.is_labelled]) for one in labels]
    return np.unique(np.concatenate(rows)).tolist() if rows else []


@dataclass
class LiveModel:
    """A model, its optimiser, and the number of training steps since the last change.

    Attributes:
        source: frozen backbone.
        task: task of the model.
        model: the model.
        done: finished steps since the labels changed last.
        total: all finished steps of these weights.
        settings: training settings of the method.
        seed: seed of the batches.
    """

    source: BackboneSource
    task: AbstractTask
    model: DenseModel = field(init=False)
    done: int = field(init=False, default=0)
    total: int = field(init=False, default=0)
    settings: FitSettings = field(init=False)
    seed: int = 0
    _optimiser: torch.optim.Optimizer | None = field(init=False, default=None)
    _is_trained: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        """Build a new model."""
        torch.manual_seed(0)
        self.model = DenseModel(task=self.task, method=FeatureHead.from_backbone(self.source))
        self.model.info["short_side"] = self.source.short_side_px
        self.settings = FeatureHead.few_shot_settings(self.source, self.model.output)
        self.model.eval()

    @property
    def is_trained(self) -> bool:
        """Whether at least one step was made, or the weights come from such a model."""
        return self._is_trained

    def start_from(self, other: "LiveModel", *, keeps_classes: bool) -> None:
        """Copy the weights of another model, as far as they fit.

        Args:
            other: model with the same backbone.
            keeps_classes: whether a class of both models with the same number is the same.
        """
        old, new = trained_state(other.model), trained_state(self.model)
        for name, tensor in new.items():
            is_of_classes = name.startswith(("method.out.", "method.prior"))
            if name not in old or name.startswith("task.") or (is_of_classes and not keeps_classes):
                continue
            source = old[name]
            if source.shape[1:] == tensor.shape[1:] and source.ndim:
                count = min(len(source), len(tensor))
                tensor[:count] = source[:count]
        load_trained_state(self.model, new)
        self.total, self._is_trained = other.total, other._is_trained and keeps_classes

    def copy(self) -> "LiveModel":
        """Return a copy with its own weights."""
        twin = LiveModel(self.source, self.task)
        load_trained_state(twin.model, trained_state(self.model))
        twin.total = self.total
        return twin

    def fit_statistics(self, images: Sequence[Views]) -> None:
        """Fit the feature statistics to the training images."""
        fit_statistics(self.model, images)

    def burst(
        self, images: Sequence[Views], seconds: float, is_interrupted: Callable[[], bool]
    ) -> None:
        """Train for some time, at most until ``STEPS`` steps are done.

        Args:
            images: labelled images.
            seconds: time of the training.
            is_interrupted: called before every step; True stops the training at once.
        """
        step = TrainingStep.of_settings(
            self.model, few_shot_losses(self.model), self.settings, STEPS
        )
        self._optimiser = self._optimiser or step.optimiser()
        batches = few_shot_batches(images, self.settings.batch_size, self.seed, start=self.done)
        timed = _until(batches, time.monotonic() + seconds, is_interrupted)

        def note(number: int, losses: Mapping[str, float]) -> None:
            self.total += number - self.done
            self.done, self._is_trained = number, True

        train(step, timed, start=self.done, optimiser=self._optimiser, advance=note)

    @torch.inference_mode()
    def predict(self, features: Features) -> Output:
        """Return the reduced output for an image, at the size at which the backbone saw it."""
        return self.model(blank_inputs(features), features.plain).reduced()


def _until(batches: Iterator[Any], end: float, is_interrupted: Callable[[], bool]) -> Iterator[Any]:
    """Yield at least one batch, then batches until a moment or an interruption."""
    for number in itertools.count():
        if number and (time.monotonic() > end or is_interrupted()):
            return
        yield next(batches)
