"""What a model must beat: predictors that never look at the image, learned from the labels."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from diffsight.datasets.base import AbstractDataset
from diffsight.datasets.files import replacing
from diffsight.hub.folder import BASELINES
from diffsight.tasks.base import AbstractTask
from diffsight.tasks.referring import Referring

MOST_SAMPLES = 1000


def save_baselines(maps: Mapping[str, Tensor], folder: Path) -> None:
    """Write ``baselines.safetensors``, the label maps by their names."""
    with replacing(folder / BASELINES) as partial:
        # save_file's files are private
        partial.write_bytes(save({name: one.contiguous() for name, one in maps.items()}))


def baselines(dataset: AbstractDataset, task: AbstractTask) -> dict[str, Tensor]:
    """Label maps that are the same for every image, by name.

    They are learned from up to 1000 samples, evenly spread over the data set, without
    augmentation. Samples of another size than the first are brought to it (nearest).

    * numbers: ``constant median``, and the ``mean map`` of every pixel's place (the median where no
      sample has a label),
    * classes: the ``constant majority``, and the ``majority map`` of every pixel's place,
    * labels of several channels: nothing,
    * masks of sentences: ``everything``, and the ``best place``: of the masks that keep the places
      where the thing is most often, the one with the largest ``oiou``.

    Args:
        dataset: training samples.
        task: whose label is learned.

    Returns:
        ``h w`` or 1 x 1, of floats or ids as the labels are.
    """
    if isinstance(task, Referring):
        return _of_masks(_counts(dataset, task.label, 2))
    label = dataset[0].labels[task.label]
    if label.ndim == 3 and len(label) > 1:
        return {}
    if label.is_floating_point():
        return _of_values(dataset, task.label)
    return _of_classes(_counts(dataset, task.label, task.num_outputs))


def _labels(dataset: AbstractDataset, label: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Maps ``h w`` and where they mean something, at the size of the first."""
    count = min(len(dataset), MOST_SAMPLES)
    hw = tuple(dataset[0].image.shape[-2:])
    for index in (i * len(dataset) // count for i in range(count)):
        sample = dataset[index]
        values = sample.labels[label].reshape(1, 1, *sample.image.shape[-2:]).double()
        valid = sample.valid[label][None, None].double()
        yield functional.interpolate(values, hw)[0, 0], functional.interpolate(valid, hw)[0, 0] > 0


def _of_values(dataset: AbstractDataset, label: str) -> dict[str, Tensor]:
    total = seen = torch.zeros(())
    some: list[Tensor] = []
    for values, valid in _labels(dataset, label):
        known = valid & (values > 0)
        total = total + torch.where(known, values, 0)
        seen = seen + known
        # every 7th pixel is enough for a median and coprime to most widths
        some.append(values[known][::7])
    median = torch.cat(some).median()
    mean_map = torch.where(seen > 0, total / seen.clamp(min=1), median)
    return {"constant median": median.float().reshape(1, 1), "mean map": mean_map.float()}


def _counts(dataset: AbstractDataset, label: str, classes: int) -> Tensor:
    """How often every pixel's place has every class, ``k h w``."""
    counts = torch.zeros(())
    ids = torch.arange(classes)[:, None, None]
    for values, valid in _labels(dataset, label):
        counts = counts + ((values == ids) & valid).int()
    return counts


def _of_classes(counts: Tensor) -> dict[str, Tensor]:
    areas = counts.flatten(1).sum(dim=1)
    majority = areas.argmax()
    nowhere = counts.sum(dim=0) == 0
    places = torch.where(nowhere, majority, counts.argmax(dim=0))
    return {"constant majority": majority.reshape(1, 1), "majority map": places}


def _of_masks(counts: Tensor) -> dict[str, Tensor]:
    things, images = counts[1].double(), counts.sum(dim=0).double()
    often, order = (things / images.clamp(min=1)).flatten().sort(descending=True)
    found = things.flatten()[order].cumsum(dim=0)
    union = things.sum() + images.flatten()[order].cumsum(dim=0) - found
    threshold = often[(found / union.clamp(min=1)).argmax()]
    place = things / images.clamp(min=1) >= threshold
    return {"everything": torch.ones(1, 1, dtype=torch.long), "best place": place.long()}
