"""What a model takes from its training set before the first step."""

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.datasets.base import AbstractDataset, collate
from diffsight.methods.base import MethodBuilder, mean_frequencies
from diffsight.model import DenseModel
from diffsight.tasks.base import AbstractTask

MOST_SAMPLES = 64  # at even distances in the data set
MOST_VALUES = 200_000


def label_values(dataset: AbstractDataset, label: str) -> Float[Tensor, "m d"]:
    """Return labels of valid pixels, as many of every sample, to fit bins or a codebook to."""
    indices = _even_indices(len(dataset))
    rows, generator = [], torch.Generator().manual_seed(0)
    most = max(1, MOST_VALUES // len(indices))
    for index in indices:
        sample = dataset[index]
        flat = sample.labels[label].movedim(0, -1)[sample.valid[label]]
        if len(flat) > most:
            flat = flat[torch.randperm(len(flat), generator=generator)[:most]]
        rows.append(flat)
    return torch.cat(rows)


def build_fitted(task: AbstractTask, method: MethodBuilder, train: AbstractDataset) -> DenseModel:
    """Return a model whose bins and feature statistics are fitted to a training set."""
    if task.needs_fitting:
        task = task.fitted(label_values(train, task.label))
    model = DenseModel(task=task, method=method)
    take_statistics(model, train)
    return model


@torch.no_grad()
def take_statistics(model: DenseModel, dataset: AbstractDataset) -> None:
    """Let the method take statistics of its frozen features, if it has a frozen part."""
    if not model.method.frozen():
        return
    task, encoded, rows = model.task, [], []
    for index in _even_indices(len(dataset)):
        batch = collate([dataset[index]], task.label)
        encoded.append(model.encode(batch.inputs))
        if (soft := task.encode_label(batch.target.label)) is not None:
            rows.append((soft.ids, soft.weights, batch.target.valid))
    frequencies = mean_frequencies(rows, task.outputs[0].channels) if rows else None
    model.method.fit_statistics(encoded, frequencies)


def _even_indices(size: int) -> list[int]:
    count = min(size, MOST_SAMPLES)
    return [i * size // count for i in range(count)]
