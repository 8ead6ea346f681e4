"""Predictors that never look at the image."""

import pytest
import torch
from safetensors.torch import load_file

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.training.baselines import baselines


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


def test_mean_of_what_is_valid_and_median_elsewhere(tmp_path):
    data = Given([[[1.0, 2.0, NAN]], [[3.0, NAN, NAN]]])
    result = baselines(data, "depth_m")
    # every 7th valid pixel: 1 and 3, of which torch's median is the lower
    assert result.median == 1.0
    assert result.mean_map.tolist() == [[2.0, 2.0, 1.0]]
    result.save(tmp_path)
    saved = load_file(tmp_path / "baselines.safetensors")
    assert torch.equal(saved["mean_map"], result.mean_map)
    assert saved["median"] == 1.0
    assert saved["median"].shape == ()


def test_other_sizes_are_brought_to_the_first():
    data = Given([[[1.0, 3.0]], [[5.0, 5.0, 7.0, 7.0], [5.0, 5.0, 7.0, 7.0]]])
    assert baselines(data, "depth_m").mean_map.tolist() == [[3.0, 5.0]]


def test_the_median_is_that_of_all_pixels_nearly():
    generator = torch.Generator().manual_seed(0)
    maps = [(torch.rand(32, 32, generator=generator) * 4 + 1).tolist() for _ in range(8)]
    expected = torch.tensor(maps).median().item()
    assert baselines(Given(maps), "depth_m").median == pytest.approx(expected, abs=0.1)
