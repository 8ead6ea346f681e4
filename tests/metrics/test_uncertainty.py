"""Uncertainty measures against loops, and against torchmetrics."""

import math

import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from diffsight.errors import InputError
from diffsight.metrics.uncertainty import UncertaintyMetrics
from diffsight.types import PixelErrors


def drawn(seed: int, hw: tuple[int, int] = (12, 17)) -> PixelErrors:
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.rand(hw, generator=generator)
    wrong = (torch.rand(hw, generator=generator) > confidence).float()
    return PixelErrors(wrong, 1 - confidence, confidence)


def whole(doubts: PixelErrors) -> torch.Tensor:
    return torch.ones_like(doubts.error, dtype=torch.bool)


def by_hand(error: list[float], doubt: list[float], power: int) -> float:
    """The area between the two curves, one fraction after another."""
    gaps = []
    for percent in range(100):
        count = max(1, math.ceil(len(error) * (100 - percent) / 100))
        kept = [e for _, e in sorted(zip(doubt, error, strict=True))][:count]
        best = sorted(error)[:count]
        means = [sum(x**power for x in part) / count for part in (kept, best)]
        gaps.append(means[0] ** (1 / power) - means[1] ** (1 / power))
    return sum(gaps) / 100


def test_the_area_is_that_of_a_loop() -> None:
    metric = UncertaintyMetrics("classes")
    expected = []
    for seed in range(3):
        doubts = drawn(seed)
        metric.update(doubts, whole(doubts))
        rows = (doubts.error.flatten().tolist(), doubts.uncertainty.flatten().tolist())
        expected.append(by_hand(*rows, 1))
    assert float(metric.compute()["ause"]) == pytest.approx(sum(expected) / 3, rel=1e-9)


def test_the_area_of_numbers_is_of_root_mean_squares() -> None:
    generator = torch.Generator().manual_seed(3)
    std = torch.rand((9, 14), generator=generator) + 0.1
    error = (std * torch.randn(std.shape, generator=generator)).abs()
    metric = UncertaintyMetrics("number")
    metric.update(PixelErrors(error, std), torch.ones(9, 14, dtype=torch.bool))
    rows = (error.double().flatten().tolist(), std.double().flatten().tolist())
    assert float(metric.compute()["ause"]) == pytest.approx(by_hand(*rows, 2), rel=1e-9)


def test_calibration_is_that_of_torchmetrics() -> None:
    doubts = drawn(5, (40, 50))
    metric = UncertaintyMetrics("classes")
    metric.update(doubts, whole(doubts))
    assert doubts.confidence is not None
    expected = binary_calibration_error(
        doubts.confidence.flatten(), 1 - doubts.error.flatten().long(), n_bins=15, norm="l1"
    )
    assert float(metric.compute()["ece"]) == pytest.approx(float(expected), abs=1e-6)


def test_normal_errors_are_calibrated_and_too_small_deviations_are_not() -> None:
    generator = torch.Generator().manual_seed(4)
    std = torch.rand((200, 200), generator=generator) + 0.1
    error = (std * torch.randn(std.shape, generator=generator)).abs()
    found = []
    for factor in (1.0, 0.3):
        metric = UncertaintyMetrics("number")
        metric.update(PixelErrors(error, factor * std), torch.ones(200, 200, dtype=torch.bool))
        found.append(float(metric.compute()["ece"]))
    assert found[0] < 0.01
    assert found[1] > 0.2


def test_a_perfect_order_has_no_area_and_finds_all_errors() -> None:
    error = torch.zeros(10, 10)
    error[0, :7] = 1
    doubts = PixelErrors(error, error, 1 - error)
    metric = UncertaintyMetrics("classes")
    metric.update(doubts, whole(doubts))
    figures = {name: float(value) for name, value in metric.compute().items()}
    assert figures == {"ause": 0.0, "errors_in_top_10": 1.0, "ece": 0.0}


def test_equal_uncertainties_say_nothing() -> None:
    doubts = drawn(6, (20, 20))
    same = PixelErrors(doubts.error, torch.full((20, 20), 0.5), doubts.confidence)
    metric = UncertaintyMetrics("classes")
    metric.update(same, whole(same))
    assert float(metric.compute()["errors_in_top_10"]) == pytest.approx(0.1)


def test_pixels_that_do_not_count_are_left_out() -> None:
    doubts = drawn(7)
    part = whole(doubts)
    part[:, 8:] = False
    left = PixelErrors(
        *(one[:, :8] for one in (doubts.error, doubts.uncertainty, 1 - doubts.uncertainty))
    )
    some, all_of_left = UncertaintyMetrics("classes"), UncertaintyMetrics("classes")
    some.update(doubts, part)
    all_of_left.update(left, whole(left))
    torch.testing.assert_close(some.sums, all_of_left.sums)
    some.update(doubts, torch.zeros_like(part))  # an image without labels changes nothing
    torch.testing.assert_close(some.sums, all_of_left.sums)


def test_vectors_have_no_calibration() -> None:
    metric = UncertaintyMetrics("vector")
    errors = PixelErrors(torch.rand(4, 4), torch.rand(4, 4))
    metric.update(errors, torch.ones(4, 4, dtype=torch.bool))
    assert sorted(metric.compute()) == ["ause", "errors_in_top_10"]


def test_what_cannot_be_scored() -> None:
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    empty = UncertaintyMetrics("number")
    empty.update(PixelErrors(torch.rand(2, 2), torch.rand(2, 2)), nothing)
    with pytest.raises(InputError, match="no valid pixel"):
        empty.compute()
    unknown = PixelErrors(torch.rand(2, 2), torch.full((2, 2), torch.nan))
    with pytest.raises(InputError, match="not known at every pixel"):
        UncertaintyMetrics("number").update(unknown, ~nothing)
