"""Trivial baselines: predictions from the training labels that ignore the image."""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.ops.resize import resize_label, resize_label_and_mask, working_hw
from diffsight.tasks import AbstractTask

MAX_SAMPLES = 1000
SMALL_PX = 64  # longest side of a map that ``adapt`` stores in a saved model


def compute_baselines(dataset: AbstractDataset, task: AbstractTask) -> dict[str, Tensor]:
    """Return the baselines of a task by name, as ``AbstractTask.baselines`` computes them.

    They are computed from up to 1000 samples, evenly spaced over the data set, without
    augmentation. Labels are resized to the size of the first sample (nearest).

    Args:
        dataset: training samples.
        task: task whose labels are used.

    Returns:
        Label maps ``h w``, or 1 x 1 for a constant, of the labels' type (values or class ids). BEV
        maps are ``k h w``.
    """
    # sorted by name, as in a saved model, so that all reports have the same order
    hw = (dataset[0].image.shape[-2], dataset[0].image.shape[-1])
    labels = (
        task.comparable_label(sample, hw) for sample in iter_spaced_samples(dataset, MAX_SAMPLES)
    )
    return dict(sorted(task.baselines(labels).items()))


def compute_small_baselines(
    dataset: AbstractDataset, task: AbstractTask, *, short_side: int
) -> dict[str, Tensor]:
    """Return the baselines of a task as maps with at most 64 pixels on their longer side.

    They are computed from labels at the working size of the model. ``evaluate`` resizes them to the
    size of an image. Baselines with values that are not finite are dropped.

    Args:
        dataset: training samples.
        task: task whose labels are used.
        short_side: shorter side of the working size in pixels.
    """
    hw = working_hw(*dataset[0].image.shape[-2:], short_side=short_side)

    def labels() -> Iterator[tuple[Tensor, Tensor]]:
        for sample in iter_spaced_samples(dataset, MAX_SAMPLES):
            yield resize_label_and_mask(sample.labels[task.label], sample.valid[task.label], hw)

    maps = {name: _shrink(one) for name, one in sorted(task.baselines(labels()).items())}
    return {name: one for name, one in maps.items() if bool(one.isfinite().all())}


def _shrink(label_map: Tensor) -> Tensor:
    """Return a map reduced to at most 64 pixels per side, by averages of values or nearest ids."""
    factor = min(1.0, SMALL_PX / max(label_map.shape))
    height, width = (max(1, round(side * factor)) for side in label_map.shape)
    if label_map.is_floating_point():
        return functional.interpolate(label_map[None, None], (height, width), mode="area")[0, 0]
    return resize_label(label_map[None], (height, width))[0]


def average_labels(
    labels: Iterable[tuple[Tensor, Tensor]],
    hw: tuple[int, int],
    constant: Float[Tensor, "d 1 1"],
    *,
    classes: int = 0,
) -> Float[Tensor, "d h w"]:
    """Return the mean label at every pixel position.

    Args:
        labels: pairs of a label ``d h w`` or ``h w`` and its mask of valid pixels ``h w``; each is
            resized to ``hw`` (nearest).
        hw: height and width of the result in pixels.
        constant: value at positions where no image has a label.
        classes: number of classes if the labels are class ids, else 0. For class ids the result is
            the frequency of every class.
    """
    total, count = torch.zeros(()), torch.zeros(hw)
    for label, mask in labels:
        channels = label[None] if label.ndim == 2 else label
        value, valid = resize_label_and_mask(channels, mask, hw)
        if classes:
            value = functional.one_hot(value[0].long(), classes).movedim(-1, 0)
        # a pixel without a label may have the value NaN
        total, count = total + torch.where(valid, value, 0), count + valid
    return torch.where(count > 0, total / count.clamp(min=1), constant.float())


def iter_spaced_samples(dataset: AbstractDataset, most: int) -> Iterator[Sample]:
    """Yield samples that are evenly spaced over a data set.

    Args:
        dataset: samples.
        most: maximum number of samples.
    """
    count = min(len(dataset), most)
    return (dataset[i * len(dataset) // count] for i in range(count))
