"""Predictors that never look at the image."""

from dataclasses import replace

import pytest
import torch

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.inference.baselines import baselines_of, small_baselines_of
from diffsight.tasks import Depth, Referring, Segmentation


class Given(AbstractDataset):
    """Depth maps as they are given; NaN is where nothing was measured."""

    name = "given"

    def __init__(self, maps) -> None:
        self.maps = [torch.tensor(m) for m in maps]

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: int) -> Sample:
        depth_m = self.maps[index]
        image = torch.zeros(3, *depth_m.shape, dtype=torch.uint8)
        valid = {"depth_m": depth_m.isfinite()}
        return Sample(str(index), image, {"depth_m": depth_m[None]}, valid)


NAN = float("nan")


def test_mean_of_valid_pixels_and_median_elsewhere():
    data = Given([[[1.0, 2.0, NAN]], [[3.0, NAN, NAN]]])
    result = baselines_of(data, Depth())
    # every 7th valid pixel: 1 and 3, of which torch's median is the lower
    assert result["constant median"].tolist() == [[1.0]]
    assert result["mean map"].tolist() == [[2.0, 2.0, 1.0]]


def test_other_sizes_are_resized_to_the_first():
    data = Given([[[1.0, 3.0]], [[5.0, 5.0, 7.0, 7.0], [5.0, 5.0, 7.0, 7.0]]])
    assert baselines_of(data, Depth())["mean map"].tolist() == [[3.0, 5.0]]


def test_the_median_is_that_of_all_pixels_nearly():
    generator = torch.Generator().manual_seed(0)
    maps = [(torch.rand(32, 32, generator=generator) * 4 + 1).tolist() for _ in range(8)]
    expected = torch.tensor(maps).median().item()
    found = baselines_of(Given(maps), Depth())["constant median"].item()
    assert found == pytest.approx(expected, abs=0.1)


class Ids(AbstractDataset):
    """Maps of ids as they are given; -1 is where there is no label."""

    name = "ids"

    def __init__(self, label: str, maps: list[list[list[int]]]) -> None:
        self.label = label
        self.maps = [torch.tensor(m) for m in maps]

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: int) -> Sample:
        ids = self.maps[index]
        image = torch.zeros(3, *ids.shape, dtype=torch.uint8)
        return Sample(str(index), image, {self.label: ids.clamp(min=0)}, {self.label: ids >= 0})


def test_the_most_frequent_class_of_all_and_of_every_position():
    data = Ids("semantic", [[[0, 1, 2, -1]], [[0, 1, 2, -1]], [[2, 2, 2, -1]]])
    result = baselines_of(data, Segmentation(["a", "b", "c"]))
    assert result["constant majority"].tolist() == [[2]]
    assert result["majority map"].tolist() == [[0, 1, 2, 2]]


def test_the_mask_of_the_most_frequent_positions():
    # the thing is at the left in 3, 2, 0 and 1 of three images; overlap 3 / 3, 5 / 6, 5 / 9 ...
    data = Ids("referent", [[[1, 1, 0, 0]], [[1, 1, 0, 0]], [[1, 0, 0, 1]]])
    result = baselines_of(data, Referring())
    assert result["everything"].tolist() == [[1]]
    # keeping 1 place: 3 of 6 + 0; 2 places: 5 of 7; all places: 6 of 12
    assert result["best place"].tolist() == [[1, 1, 0, 0]]


def test_several_channels_have_none():
    class Vectors(Given):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return replace(sample, labels={"depth_m": sample.labels["depth_m"].expand(3, -1, -1)})

    assert baselines_of(Vectors([[[1.0, 2.0]]]), Depth()) == {}


def test_small_maps_have_64_pixels_and_the_values_of_the_large_ones():
    ramp = torch.linspace(1, 9, 200).expand(100, 200)
    result = small_baselines_of(Given([ramp.tolist()]), Depth(), short_side=100)
    assert result["mean map"].shape == (32, 64)
    assert result["mean map"][0, [0, -1]].tolist() == pytest.approx([1.05, 8.95], abs=0.05)
    assert result["constant median"].item() == pytest.approx(5, abs=0.05)
    ids = Ids("semantic", [(ramp > 3).long().tolist()])
    result = small_baselines_of(ids, Segmentation(["a", "b"]), short_side=100)
    assert result["majority map"].shape == (32, 64)
    assert result["majority map"][5].tolist() == [0] * 16 + [1] * 48
    assert result["constant majority"].tolist() == [[1]]


def test_labels_of_other_sizes_are_brought_to_the_size_of_the_first():
    data = Given([[[1.0] * 32] * 16, [[3.0] * 64] * 32])
    assert small_baselines_of(data, Depth(), short_side=16)["mean map"].unique().tolist() == [2.0]
