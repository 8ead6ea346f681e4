"""Metrics of uncertainty against loops and against torchmetrics."""

import math

import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from diffsight.errors import InputError
from diffsight.metrics.uncertainty import UncertaintyMetrics
from diffsight.types import PixelErrors


def random_errors(seed: int, hw: tuple[int, int] = (12, 17)) -> PixelErrors:
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.rand(hw, generator=generator)
    wrong = (torch.rand(hw, generator=generator) > confidence).float()
    return PixelErrors(wrong, 1 - confidence, confidence)


def all_pixels(errors: PixelErrors) -> torch.Tensor:
    return torch.ones_like(errors.error, dtype=torch.bool)


def reference_ause(error: list[float], uncertainty: list[float], power: int) -> float:
    """Return the area between the two curves, summed in a loop over the removed fractions."""
    gaps = []
    for percent in range(100):
        count = max(1, math.ceil(len(error) * (100 - percent) / 100))
        kept = [e for _, e in sorted(zip(uncertainty, error, strict=True))][:count]
        best = sorted(error)[:count]
        means = [sum(x**power for x in part) / count for part in (kept, best)]
        gaps.append(means[0] ** (1 / power) - means[1] ** (1 / power))
    return sum(gaps) / 100


def test_ause_of_classes_agrees_with_a_loop() -> None:
    metric = UncertaintyMetrics("classes")
    expected = []
    for seed in range(3):
        errors = random_errors(seed)
        metric.update(errors, all_pixels(errors))
        rows = (errors.error.flatten().tolist(), errors.uncertainty.flatten().tolist())
        expected.append(reference_ause(*rows, 1))
    assert float(metric.compute()["ause"]) == pytest.approx(sum(expected) / 3, rel=1e-9)


def test_ause_of_numbers_is_the_area_between_rmse_curves() -> None:
    generator = torch.Generator().manual_seed(3)
    std = torch.rand((9, 14), generator=generator) + 0.1
    error = (std * torch.randn(std.shape, generator=generator)).abs()
    metric = UncertaintyMetrics("number")
    metric.update(PixelErrors(error, std), torch.ones(9, 14, dtype=torch.bool))
    rows = (error.double().flatten().tolist(), std.double().flatten().tolist())
    assert float(metric.compute()["ause"]) == pytest.approx(reference_ause(*rows, 2), rel=1e-9)


def test_calibration_error_of_classes_agrees_with_torchmetrics() -> None:
    errors = random_errors(5, (40, 50))
    metric = UncertaintyMetrics("classes")
    metric.update(errors, all_pixels(errors))
    assert errors.confidence is not None
    expected = binary_calibration_error(
        errors.confidence.flatten(), 1 - errors.error.flatten().long(), n_bins=15, norm="l1"
    )
    assert float(metric.compute()["ece"]) == pytest.approx(float(expected), abs=1e-6)


def test_gaussian_errors_are_calibrated_unless_deviations_are_too_small() -> None:
    generator = torch.Generator().manual_seed(4)
    std = torch.rand((200, 200), generator=generator) + 0.1
    error = (std * torch.randn(std.shape, generator=generator)).abs()
    calibration_errors = []
    for factor in (1.0, 0.3):
        metric = UncertaintyMetrics("number")
        metric.update(PixelErrors(error, factor * std), torch.ones(200, 200, dtype=torch.bool))
        calibration_errors.append(float(metric.compute()["ece"]))
    assert calibration_errors[0] < 0.01
    assert calibration_errors[1] > 0.2


def test_a_perfect_ranking_has_ause_zero_and_all_errors_in_the_top_tenth() -> None:
    error = torch.zeros(10, 10)
    error[0, :7] = 1
    errors = PixelErrors(error, error, 1 - error)
    metric = UncertaintyMetrics("classes")
    metric.update(errors, all_pixels(errors))
    figures = {name: float(value) for name, value in metric.compute().items()}
    assert figures == {"ause": 0.0, "errors_in_top_10": 1.0, "ece": 0.0}


def test_equal_uncertainties_have_a_tenth_of_the_errors_in_the_top_tenth() -> None:
    errors = random_errors(6, (20, 20))
    same = PixelErrors(errors.error, torch.full((20, 20), 0.5), errors.confidence)
    metric = UncertaintyMetrics("classes")
    metric.update(same, all_pixels(same))
    assert float(metric.compute()["errors_in_top_10"]) == pytest.approx(0.1)


def test_pixels_that_are_not_valid_do_not_count() -> None:
    errors = random_errors(7)
    valid = all_pixels(errors)
    valid[:, 8:] = False
    cropped = PixelErrors(
        *(one[:, :8] for one in (errors.error, errors.uncertainty, 1 - errors.uncertainty))
    )
    of_valid, of_cropped = UncertaintyMetrics("classes"), UncertaintyMetrics("classes")
    of_valid.update(errors, valid)
    of_cropped.update(cropped, all_pixels(cropped))
    torch.testing.assert_close(of_valid.sums, of_cropped.sums)
    of_valid.update(errors, torch.zeros_like(valid))  # an image without labels changes nothing
    torch.testing.assert_close(of_valid.sums, of_cropped.sums)


def test_vectors_have_no_calibration_error() -> None:
    metric = UncertaintyMetrics("vector")
    errors = PixelErrors(torch.rand(4, 4), torch.rand(4, 4))
    metric.update(errors, torch.ones(4, 4, dtype=torch.bool))
    assert sorted(metric.compute()) == ["ause", "errors_in_top_10"]


def test_missing_labels_and_missing_uncertainties_are_refused() -> None:
    no_pixels = torch.zeros(2, 2, dtype=torch.bool)
    empty = UncertaintyMetrics("number")
    empty.update(PixelErrors(torch.rand(2, 2), torch.rand(2, 2)), no_pixels)
    with pytest.raises(InputError, match="no valid pixel"):
        empty.compute()
    unknown = PixelErrors(torch.rand(2, 2), torch.full((2, 2), torch.nan))
    with pytest.raises(InputError, match="missing at some pixels"):
        UncertaintyMetrics("number").update(unknown, ~no_pixels)
