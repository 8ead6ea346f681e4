"""A data set of bright squares with three tasks, and a base of random weights."""

from pathlib import Path

import pytest
import torch

from diffsight.datasets.source import AbstractSource, Labelled, SourceTask
from diffsight.hub.task_file import Base


class Squares(AbstractSource):
    """A bright square in every picture; the value is its number inside, 1 outside."""

    name = "squares"

    def __init__(self, broken: str = "") -> None:
        self.tasks = {
            "size": SourceTask("size", "scalar", "values", 8),
            "where": SourceTask("where", "segmentation", "classes", classes=("ground", "square")),
            "way": SourceTask("way", "normals", "angles", 6),
            "one": SourceTask("one", "segmentation", "binary", classes=("ground", "square")),
        }
        self.skipped = {}
        self.broken = broken

    def pool(self, task: str):
        return [f"train/{i}" for i in range(8)]

    def queries(self, task: str):
        return [f"test/{i}" for i in range(3)]

    def read(self, task: str, id: str) -> Labelled | None:
        if id == self.broken:
            self.skipped[id] = "truncated"
            return None
        number = int(id.partition("/")[2])
        noise = torch.Generator().manual_seed(number + 100 * id.startswith("test"))
        inside = torch.zeros(64, 64, dtype=torch.bool)
        inside[4 * number : 4 * number + 30, 8:40] = True
        image = torch.randint(0, 60, (3, 64, 64), generator=noise)
        image[:, inside] += 180
        value = torch.where(inside, 2.0 + number, 1.0)[None]
        if task == "size":
            value = value + 0.01 * torch.rand(1, 64, 64, generator=noise)
        elif task == "way":
            value = torch.randn(3, 64, 64, generator=noise) + 3 * (2 * inside.float() - 1)
            value = torch.nn.functional.normalize(value, dim=0)
        else:
            value = inside.float()[None]
        valid = torch.ones(64, 64, dtype=torch.bool)
        valid[:2] = False
        return Labelled(id, image.to(torch.uint8), value * valid, valid)


@pytest.fixture(scope="module")
def base(pipeline_folder: Path) -> Base:
    return Base.load(pipeline_folder)
