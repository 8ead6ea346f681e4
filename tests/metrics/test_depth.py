"""Depth errors against plain NumPy code that follows their definitions."""

import math

import numpy as np
import pytest
import torch

from diffsight.errors import InputError
from diffsight.metrics.depth import NAMES, DepthMetrics


def reference_errors(prediction: np.ndarray, target: np.ndarray) -> list[float]:
    """Return the nine errors of one image's valid pixels, computed pixel by pixel."""
    rows = []
    for p, g in zip(prediction.tolist(), target.tolist(), strict=True):
        e = math.log(p) - math.log(g)
        ratio = max(p / g, g / p)
        near = [float(ratio < limit) for limit in (1.25, 1.5625, 1.953125)]
        log10 = abs(math.log10(p) - math.log10(g))
        rows.append([abs(p - g) / g, (p - g) ** 2 / g, (p - g) ** 2, e * e, log10, e, *near])
    abs_rel, sq_rel, square, log_square, log10, log_mean, *near = np.mean(rows, axis=0).tolist()
    silog = math.sqrt(log_square - 0.5 * log_mean**2)
    return [abs_rel, sq_rel, math.sqrt(square), math.sqrt(log_square), log10, silog, *near]


def maps(images: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    target = torch.rand((images, 9, 11), generator=generator) * 8 + 0.2
    prediction = target * torch.exp(0.4 * torch.randn(target.shape, generator=generator))
    valid = torch.rand(target.shape, generator=generator) < 0.6
    return prediction, target, valid


def test_errors_agree_with_their_definitions_and_ignore_invalid_pixels() -> None:
    prediction, target, valid = maps()
    expected = np.mean(
        [
            reference_errors(prediction[i][valid[i]].numpy(), target[i][valid[i]].numpy())
            for i in range(len(target))
        ],
        axis=0,
    )
    spoiled = torch.where(valid, prediction, float("nan")), torch.where(valid, target, 0.0)
    metric = DepthMetrics()
    metric.update(spoiled[0][:1], spoiled[1][:1], valid[:1])
    metric.update(spoiled[0][1:], spoiled[1][1:], valid[1:])
    result = metric.compute()
    for name, value in zip(NAMES, expected.tolist(), strict=True):
        assert float(result[name]) == pytest.approx(value, abs=1e-6), name


def test_a_perfect_prediction_has_no_error() -> None:
    _, target, valid = maps()
    metric = DepthMetrics()
    metric.update(target, target, valid)
    result = metric.compute()
    assert [float(result[name]) for name in NAMES] == [0, 0, 0, 0, 0, 0, 1, 1, 1]


def test_doubled_depth_gives_the_expected_errors() -> None:
    target = torch.full((1, 3, 3), 2.0)
    metric = DepthMetrics()
    metric.update(2 * target, target, torch.ones_like(target, dtype=torch.bool))
    result = {name: float(value) for name, value in metric.compute().items()}
    log2 = math.log(2)
    expected = {"abs_rel": 1, "sq_rel": 2, "rmse": 2, "rmse_log": log2, "log10": math.log10(2)}
    expected |= {
        "silog": math.sqrt(0.5) * log2,
        "d1": 0,
        "d2": 0,
        "d3": 0,
        "images": 1,
        "skipped": 0,
    }
    assert result == pytest.approx(expected, abs=1e-12)


def test_a_constant_map_gives_finite_errors() -> None:
    _, target, valid = maps()
    metric = DepthMetrics()
    metric.update(torch.full_like(target, 3.0), target, valid)
    assert all(math.isfinite(float(value)) for value in metric.compute().values())


def test_every_image_weighs_the_same_and_images_without_labels_are_skipped() -> None:
    target = torch.full((3, 2, 2), 1.0)
    prediction = torch.stack([torch.full((2, 2), p) for p in (2.0, 4.0, 9.0)])
    valid = torch.ones_like(target, dtype=torch.bool)
    valid[0, 0] = False
    valid[2] = False
    metric = DepthMetrics()
    metric.update(prediction, target, valid)
    result = metric.compute()
    assert float(result["abs_rel"]) == pytest.approx(2.0)
    assert (float(result["images"]), float(result["skipped"])) == (2, 1)


def test_a_data_set_without_a_valid_pixel_is_refused() -> None:
    metric = DepthMetrics()
    blank = torch.ones(1, 2, 2)
    metric.update(blank, blank, blank < 0)
    with pytest.raises(InputError, match="no image with a valid pixel"):
        metric.compute()


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_predictions_that_are_not_positive_and_finite_are_refused(value: float) -> None:
    target = torch.ones(1, 2, 2)
    with pytest.raises(InputError, match=r"4 valid pixels of the prediction .* prepare\(\)"):
        DepthMetrics().update(torch.full_like(target, value), target, target > 0)


def test_the_sums_of_two_processes_give_the_metric_of_all_images() -> None:
    prediction, target, valid = maps()
    whole, *parts = (DepthMetrics() for _ in range(3))
    whole.update(prediction, target, valid)
    parts[0].update(prediction[:3], target[:3], valid[:3])
    parts[1].update(prediction[3:], target[3:], valid[3:])
    for name, reduce in parts[0]._reductions.items():
        setattr(parts[0], name, reduce(torch.stack([getattr(part, name) for part in parts])))
    for name, value in whole.compute().items():
        assert float(parts[0].compute()[name]) == pytest.approx(float(value), abs=1e-12)
