"""What a model must beat: label maps that are the same for every image, made of training labels."""

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.tasks import AbstractTask

MAX_SAMPLES = 1000


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
    return dict(sorted(task.baselines(_labels(dataset, task.label)).items()))


def even_samples(dataset: AbstractDataset, most: int) -> Iterator[Sample]:
    """Yield up to ``most`` samples, evenly spaced over the data set."""
    count = min(len(dataset), most)
    return (dataset[i * len(dataset) // count] for i in range(count))


def _labels(dataset: AbstractDataset, label: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield labels and where they mean something, at the size of the first sample."""
    hw = tuple(dataset[0].image.shape[-2:])
    for sample in even_samples(dataset, MAX_SAMPLES):
        label_map = sample.labels[label].double()
        channels = label_map[None] if label_map.ndim == 2 else label_map
        valid = functional.interpolate(sample.valid[label][None, None].double(), hw)[0, 0] > 0
        resized = functional.interpolate(channels[None], hw)[0]
        yield (resized[0] if len(resized) == 1 else resized), valid
