"""Encoding joints as heatmaps and decoding them again."""

import pytest
import torch

from diffsight.codecs.heatmaps import decode, encode, smooth


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0, 4.5])
def test_decoded_joints_are_exact_to_a_thousandth_of_a_pixel(sigma: float) -> None:
    hw = (72, 60)
    generator = torch.Generator().manual_seed(0)
    border = 3 * sigma
    spans = torch.tensor([hw[1] - 1 - 2 * border, hw[0] - 1 - 2 * border])
    points = border + torch.rand(40, 17, 2, generator=generator) * spans
    maps, is_inside = encode(points, hw, sigma)
    assert maps.shape == (40, 17, *hw)
    assert is_inside.all()
    decoded, scores = decode(maps, sigma)
    assert (decoded - points).abs().max() < 1e-3
    assert 0.7 < float(scores.min()) <= float(scores.max()) <= 1
    mirrored, _ = decode(maps.flip(-1), sigma)
    mirrored[..., 0] = hw[1] - 1 - mirrored[..., 0]
    assert (mirrored - points).abs().max() < 1e-3


def test_joints_are_decoded_between_pixels() -> None:
    points = torch.tensor([[[10.4, 12.6]]])
    maps, _ = encode(points, (32, 24), 2.0)
    flat = int(maps.flatten().argmax())
    assert (flat % 24, flat // 24) == (10, 13)
    assert (decode(maps, 2.0)[0] - points).abs().max() < 1e-3


def test_joints_whose_gaussian_misses_the_map_are_marked_outside() -> None:
    points = torch.tensor([[[-2.9, 5.0], [-3.1, 5.0], [11.9, 5.0], [12.1, 5.0], [4.0, 40.0]]])
    maps, is_inside = encode(points, (10, 10), 1.0)
    assert is_inside.tolist() == [[True, False, True, False, False]]
    assert float(maps[0, 4].max()) < 1e-6


def test_flat_and_noisy_maps_are_decoded_near_their_largest_pixel() -> None:
    maps = torch.zeros(1, 2, 8, 8)
    maps[0, 1, 3, 5] = 1e-4  # below MIN_HEIGHT
    decoded, scores = decode(maps, 1.0)
    assert decoded[0, 1].tolist() == [5.0, 3.0]
    assert scores.tolist() == [[0.0, pytest.approx(1e-4)]]
    noisy = torch.rand(1, 5, 8, 8, generator=torch.Generator().manual_seed(1))
    decoded, _ = decode(noisy, 1.0)
    peaks = noisy.flatten(2).argmax(dim=-1)
    expected = torch.stack([peaks % 8, peaks // 8], dim=-1)
    assert (decoded - expected).abs().max() <= 1


def test_smoothing_keeps_the_sum_and_the_position() -> None:
    maps = torch.zeros(1, 1, 21, 21)
    maps[0, 0, 10, 10] = 1.0
    result = smooth(maps, 2.0)
    assert float(result.sum()) == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(result, result.flip(-1))
    variance = (result[0, 0].sum(dim=0) * (torch.arange(21) - 10) ** 2).sum()
    assert float(variance) == pytest.approx(4.0, rel=0.05)
