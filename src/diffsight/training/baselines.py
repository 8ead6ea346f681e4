"""What a model must beat: predictors that never look at the image, learned from the labels."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from diffsight.datasets.base import AbstractDataset
from diffsight.datasets.files import replacing
from diffsight.hub.folder import BASELINES

MOST_SAMPLES = 1000


@dataclass(frozen=True)
class Baselines:
    """Two predictors without an image.

    Attributes:
        mean_map: mean label of every pixel, at the size of the first training sample.
        median: of all labels.
    """

    mean_map: Float[Tensor, "h w"]
    median: float

    def save(self, folder: Path) -> None:
        """Write ``baselines.safetensors`` with ``mean_map`` and ``median``."""
        tensors = {"mean_map": self.mean_map.contiguous(), "median": torch.tensor(self.median)}
        with replacing(folder / BASELINES) as partial:
            partial.write_bytes(save(tensors))  # save_file's files are private


def baselines(dataset: AbstractDataset, label: str) -> Baselines:
    """Learn both from up to 1000 samples, evenly spread over the data set, without augmentation.

    Samples of another size than the first are brought to it (nearest). A pixel that no sample
    labels gets the median.

    Args:
        dataset: training samples.
        label: key of a label with one channel.
    """
    count = min(len(dataset), MOST_SAMPLES)
    indices = [i * len(dataset) // count for i in range(count)]
    hw = tuple(dataset[0].image.shape[-2:])
    total, seen = torch.zeros(hw, dtype=torch.float64), torch.zeros(hw, dtype=torch.float64)
    some: list[Tensor] = []
    for index in indices:
        sample = dataset[index]
        values, valid = sample.labels[label], sample.valid[label] & (sample.labels[label][0] > 0)
        values = functional.interpolate(values[None], hw)[0, 0].double()
        valid = functional.interpolate(valid[None, None].float(), hw)[0, 0] > 0
        total += torch.where(valid, values, 0)
        seen += valid
        # every 7th pixel is enough for a median and coprime to most widths
        some.append(values[valid][::7])
    median = float(torch.cat(some).median())
    mean_map = torch.where(seen > 0, total / seen.clamp(min=1), median)
    return Baselines(mean_map.float(), median)
