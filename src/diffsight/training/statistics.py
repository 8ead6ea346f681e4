"""Fit bins and feature statistics to a training set, before the first training step."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffsight.datasets.base import AbstractDataset, collate
from diffsight.datasets.labelled_folder import sample_values
from diffsight.inference.baselines import iter_spaced_samples
from diffsight.methods.base import MethodBuilder, mean_frequencies
from diffsight.model import DenseModel
from diffsight.outputs import SoftLabels
from diffsight.tasks.base import AbstractTask
from diffsight.training.begin import begin_with

MAX_SAMPLES = 64


@torch.no_grad()
def build_fitted(
    task: AbstractTask, method: MethodBuilder, train: AbstractDataset, begin: str | None = None
) -> DenseModel:
    """Return a model whose bins and feature statistics are fitted to a training set.

    Up to 64 samples are used, evenly spaced over the training set.

    Args:
        task: task; its bins are fitted if it has any.
        method: function that builds the method.
        train: training set.
        begin: saved model that provides the initial weights, see ``begin_with``.

    Raises:
        InputError: if a sample or the saved model cannot be read, or task, method and labels do not
            fit together.
    """
    if task.needs_fitting:
        task = task.fitted(sample_values(list(iter_spaced_samples(train, MAX_SAMPLES)), task.label))
    model = DenseModel(task=task, method=method)
    # before the statistics, which depend on the frozen parts
    copied = {} if begin is None else begin_with(model, begin)
    if model.method.frozen():
        encoded, labels = [], []
        for sample in iter_spaced_samples(train, MAX_SAMPLES):
            batch = collate([sample], task.label)
            encoded.append(model.encode(batch.inputs))
            labels.append((task.encode_label(batch.target.label), batch.target.valid))
        take_statistics(model, encoded, labels)
    model.load_state_dict(copied, strict=False)  # statistics of a saved model fit its weights
    return model


def take_statistics(
    model: DenseModel, encoded: Sequence[Any], labels: Iterable[tuple[SoftLabels | None, Tensor]]
) -> None:
    """Fit the statistics of a method to the frozen outputs and labels of training images.

    Args:
        model: model with the method.
        encoded: results of ``DenseModel.encode``.
        labels: soft labels (None for tasks without classes), each with its mask of valid pixels.
    """
    rows = [(soft.ids, soft.weights, valid) for soft, valid in labels if soft is not None]
    classes = model.task.outputs[0].channels
    model.method.fit_statistics(encoded, mean_frequencies(rows, classes) if rows else None)
