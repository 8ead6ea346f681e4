"""Baselines: constants and maps that are the same for every image."""

from dataclasses import replace

import pytest
import torch

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.inference.baselines import compute_baselines, compute_small_baselines
from diffsight.tasks import Depth, Referring, Segmentation


class DepthMaps(AbstractDataset):
    """A data set of the given depth maps; NaN marks pixels without a label."""

    name = "depth maps"

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


def test_the_mean_map_falls_back_to_the_median_at_unlabelled_pixels():
    data = DepthMaps([[[1.0, 2.0, NAN]], [[3.0, NAN, NAN]]])
    result = compute_baselines(data, Depth())
    # every 7th valid pixel counts, here 1 and 3; the median of torch is the lower of the two
    assert result["constant median"].tolist() == [[1.0]]
    assert result["mean map"].tolist() == [[2.0, 2.0, 1.0]]


def test_labels_are_resized_to_the_size_of_the_first_label():
    data = DepthMaps([[[1.0, 3.0]], [[5.0, 5.0, 7.0, 7.0], [5.0, 5.0, 7.0, 7.0]]])
    assert compute_baselines(data, Depth())["mean map"].tolist() == [[3.0, 5.0]]


def test_the_median_of_a_sample_of_pixels_is_close_to_that_of_all():
    generator = torch.Generator().manual_seed(0)
    maps = [(torch.rand(32, 32, generator=generator) * 4 + 1).tolist() for _ in range(8)]
    expected = torch.tensor(maps).median().item()
    median = compute_baselines(DepthMaps(maps), Depth())["constant median"].item()
    assert median == pytest.approx(expected, abs=0.1)


class Ids(AbstractDataset):
    """A data set of the given maps of ids; -1 marks pixels without a label."""

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


def test_baselines_of_classes_are_the_most_frequent_class_overall_and_per_position():
    data = Ids("semantic", [[[0, 1, 2, -1]], [[0, 1, 2, -1]], [[2, 2, 2, -1]]])
    result = compute_baselines(data, Segmentation(["a", "b", "c"]))
    assert result["constant majority"].tolist() == [[2]]
    assert result["majority map"].tolist() == [[0, 1, 2, 2]]


def test_the_fixed_mask_baseline_has_the_largest_overall_iou():
    # the four pixels belong to the object in 3, 2, 0 and 1 of three images
    data = Ids("referent", [[[1, 1, 0, 0]], [[1, 1, 0, 0]], [[1, 0, 0, 1]]])
    result = compute_baselines(data, Referring())
    assert result["everything"].tolist() == [[1]]
    # overall IoU with the first pixel: 3 / 6, with the first two: 5 / 7, with all: 6 / 12
    assert result["best place"].tolist() == [[1, 1, 0, 0]]


def test_labels_of_several_channels_have_no_baselines():
    class Vectors(DepthMaps):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return replace(sample, labels={"depth_m": sample.labels["depth_m"].expand(3, -1, -1)})

    assert compute_baselines(Vectors([[[1.0, 2.0]]]), Depth()) == {}


def test_stored_baselines_have_at_most_64_pixels_per_side_and_nearly_equal_values():
    ramp = torch.linspace(1, 9, 200).expand(100, 200)
    result = compute_small_baselines(DepthMaps([ramp.tolist()]), Depth(), short_side=100)
    assert result["mean map"].shape == (32, 64)
    assert result["mean map"][0, [0, -1]].tolist() == pytest.approx([1.05, 8.95], abs=0.05)
    assert result["constant median"].item() == pytest.approx(5, abs=0.05)
    ids = Ids("semantic", [(ramp > 3).long().tolist()])
    result = compute_small_baselines(ids, Segmentation(["a", "b"]), short_side=100)
    assert result["majority map"].shape == (32, 64)
    assert result["majority map"][5].tolist() == [0] * 16 + [1] * 48
    assert result["constant majority"].tolist() == [[1]]


def test_labels_of_stored_baselines_are_resized_to_the_size_of_the_first():
    data = DepthMaps([[[1.0] * 32] * 16, [[3.0] * 64] * 32])
    mean_map = compute_small_baselines(data, Depth(), short_side=16)["mean map"]
    assert mean_map.unique().tolist() == [2.0]
