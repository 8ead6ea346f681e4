"""What a model must beat: label maps that are the same for every image, made of training labels."""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.ops.resize import resized_label, resized_label_and_mask, working_hw
from diffsight.tasks import AbstractTask

MAX_SAMPLES = 1000
SMALL_PX = 64  # longer side of a map that is stored in a small model


def baselines_of(dataset: AbstractDataset, task: AbstractTask) -> dict[str, Tensor]:
    """Return label maps that are the same for every image, by name (``AbstractTask.baselines``).

    They are made of up to 1000 samples, evenly spaced over the data set, without augmentation.
    Samples of another size than the first are brought to it (nearest).

    Args:
        dataset: training samples.
        task: whose label is learned.

    Returns:
        ``h w`` or 1 x 1, of floats or ids as the labels are.
    """
    # ordered as they are stored, so that every report lists them alike
    hw = (dataset[0].image.shape[-2], dataset[0].image.shape[-1])
    labels = (task.comparable_label(sample, hw) for sample in even_samples(dataset, MAX_SAMPLES))
    return dict(sorted(task.baselines(labels).items()))


def small_baselines_of(
    dataset: AbstractDataset, task: AbstractTask, *, short_side: int
) -> dict[str, Tensor]:
    """Return baselines whose maps have at most 64 pixels on their longer side.

    They are made of labels at the size at which the model works. ``evaluate`` brings them to the
    size of an image.

    Args:
        dataset: training samples.
        task: whose label is learned.
        short_side: pixels at which the model works.
    """
    hw = working_hw(*dataset[0].image.shape[-2:], short_side=short_side)

    def labels() -> Iterator[tuple[Tensor, Tensor]]:
        for sample in even_samples(dataset, MAX_SAMPLES):
            yield resized_label_and_mask(sample.labels[task.label], sample.valid[task.label], hw)

    maps = {name: _small(one) for name, one in sorted(task.baselines(labels()).items())}
    return {name: one for name, one in maps.items() if bool(one.isfinite().all())}


def _small(label_map: Tensor) -> Tensor:
    """Return a map of at most 64 pixels a side: means of numbers, the nearest of ids."""
    factor = min(1.0, SMALL_PX / max(label_map.shape))
    height, width = (max(1, round(side * factor)) for side in label_map.shape)
    if label_map.is_floating_point():
        return functional.interpolate(label_map[None, None], (height, width), mode="area")[0, 0]
    return resized_label(label_map[None], (height, width))[0]


def mean_over_images(
    labels: Iterable[tuple[Tensor, Tensor]],
    hw: tuple[int, int],
    constant: Float[Tensor, "d 1 1"],
    *,
    classes: int = 0,
) -> Float[Tensor, "d h w"]:
    """Return the mean of labels at every pixel position.

    Args:
        labels: ``d h w`` or ``h w`` with valid pixels ``h w``; other sizes are brought to ``hw``.
        hw: size of the result.
        constant: stands where no image has a label.
        classes: their number, for labels that are ids; the result is how frequent they are.
    """
    total, count = torch.zeros(()), torch.zeros(hw)
    for label, mask in labels:
        channels = label[None] if label.ndim == 2 else label
        value, valid = resized_label_and_mask(channels, mask, hw)
        if classes:
            value = functional.one_hot(value[0].long(), classes).movedim(-1, 0)
        # of pixels without a label a number may be NaN
        total, count = total + torch.where(valid, value, 0), count + valid
    return torch.where(count > 0, total / count.clamp(min=1), constant.float())


def even_samples(dataset: AbstractDataset, most: int) -> Iterator[Sample]:
    """Yield up to ``most`` samples, evenly spaced over the data set."""
    count = min(len(dataset), most)
    return (dataset[i * len(dataset) // count] for i in range(count))
