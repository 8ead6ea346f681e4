"""A data set of bright squares, and a benchmark source with five tasks on it."""

from functools import partial

import torch

from diffsight.benchmark.measures import (
    AngleMeasure,
    ClassMeasure,
    ForegroundMeasure,
    ValueMeasure,
)
from diffsight.benchmark.source import BenchmarkSource, BenchmarkTask, benchmark_tasks
from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.errors import InputError
from diffsight.tasks import Normals, Segmentation, Values

CLASSES = ("ground", "square")


class Squares(AbstractDataset):
    """Images with a bright square; the value is 2 + index inside the square, and 1 outside."""

    def __init__(self, split: str, label: str, count: int, broken: str = "") -> None:
        self.name = f"squares-{split}"
        self.split = split
        self.label = label
        self.count = count
        self.broken = broken

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError
        id = f"{self.split}/{index}"
        if id == self.broken:
            raise InputError(f"{id}: truncated")
        noise = torch.Generator().manual_seed(index + 100 * (self.split == "test"))
        inside = torch.zeros(64, 64, dtype=torch.bool)
        inside[4 * index : 4 * index + 30, 8:40] = True
        image = torch.randint(0, 60, (3, 64, 64), generator=noise)
        image[:, inside] += 180
        valid = torch.ones(64, 64, dtype=torch.bool)
        valid[:2] = False
        value = self.value(index, inside, noise) * valid
        return Sample(
            id, image.to(torch.uint8), {self.label: value}, {self.label: valid}, "a bright square"
        )

    def value(self, index: int, inside: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
        if self.label == "semantic":
            return inside.long()
        if self.label == "normals":
            value = torch.randn(3, 64, 64, generator=noise) + 3 * (2 * inside.float() - 1)
            return torch.nn.functional.normalize(value, dim=0)
        value = torch.where(inside, 2.0 + index, 1.0)[None]
        value = value + 0.01 * torch.rand(1, 64, 64, generator=noise)
        if self.label == "pair":  # two channels that are not a direction
            return torch.cat([value, torch.arange(64.0).expand(1, 64, 64)])
        return value


def squares(broken: str = "") -> BenchmarkSource:
    """Return a source with tasks of every kind; reading the image with id ``broken`` fails."""

    def make(name: str, task, measure) -> BenchmarkTask:
        build = partial(Squares, label=task.label, broken=broken)
        train, test = build("train", count=8), build("test", count=3)
        return BenchmarkTask(name, task, train, test, measure)

    tasks = (
        make("size", Values(bins=8), ValueMeasure),
        make("classes", Segmentation(CLASSES), ClassMeasure),
        make("normals", Normals(bins=6), AngleMeasure),
        make("foreground", Segmentation(CLASSES), ForegroundMeasure),
        make("pair", Values(channels=2, label="pair", bins=8), ValueMeasure),
    )
    return BenchmarkSource("squares", benchmark_tasks(tasks))
