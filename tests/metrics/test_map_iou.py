"""The IoU of bird's-eye-view maps against a direct computation."""

import pytest
import torch
from tests.support import noise

from diffsight.metrics.map_iou import MapIoU
from diffsight.ops.map_counts import THRESHOLDS


def test_a_perfect_prediction_scores_one() -> None:
    label = (noise(3, 2, 6, 6, seed=1) > 0).float()
    valid = torch.ones(3, 6, 6, dtype=torch.bool)
    metric = MapIoU(2)
    metric.update(label, label, valid)
    assert float(metric.compute()["miou"]) == 1


def test_the_iou_of_a_class_is_that_of_its_best_threshold_over_all_images() -> None:
    """Invalid cells do not count."""
    probability = noise(2, 3, 4, 5, seed=2).sigmoid()
    label = (noise(2, 3, 4, 5, seed=3) > 0).float()
    valid = noise(2, 4, 5, seed=4) > -1
    metric = MapIoU(3)
    for row in range(2):
        one = slice(row, row + 1)
        metric.update(probability[one], label[one], valid[one])
    best = []
    for k in range(3):
        ious = []
        for threshold in THRESHOLDS:
            is_predicted, is_true = probability[:, k] >= threshold, label[:, k] > 0.5
            both = (is_predicted & is_true & valid).sum()
            ious.append(float(both / ((is_predicted | is_true) & valid).sum()))
        best.append(max(ious))
    assert metric.per_class().tolist() == pytest.approx(best)
    assert float(metric.compute()["miou"]) == pytest.approx(sum(best) / 3)
