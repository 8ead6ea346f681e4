"""The direction of a metric, by its name."""

import pytest

from diffsight.metrics import larger_is_better
from diffsight.metrics.keypoint_ap import FIGURES

SCORES = (
    *("iou", "miou", "oiou", "iou_vtm", "category_miou", "macc", "aacc"),
    *("d1", "d2", "d3", "p@0.5", "below_11.25"),
    *FIGURES,
)
ERRORS = (
    *("rmse", "rmse_log", "abs_rel", "sq_rel", "silog", "log10", "mae_valid", "rmse_valid"),
    *("vtm_mae", "merr_true", "median_true", "mean_oks_error", "loss", "area", "arc", "apart"),
)


@pytest.mark.parametrize("name", SCORES)
def test_larger_scores_are_better(name: str) -> None:
    assert larger_is_better(name)


@pytest.mark.parametrize("name", ERRORS)
def test_smaller_errors_are_better(name: str) -> None:
    assert not larger_is_better(name)
