"""Metrics of masks of sentences against their definitions."""

import pytest
import torch

from diffsight.errors import InputError
from diffsight.metrics import MaskMetrics


def test_metrics_agree_with_their_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    masks, truth, valid = (torch.rand(6, 5, 7, generator=generator) > p for p in (0.4, 0.4, 0.1))
    masks[1] = truth[1]  # a perfect prediction
    masks[3] = truth[3]
    masks[3, 0] = False
    masks[2] = truth[2] = False  # an empty union
    metric = MaskMetrics()
    metric.update(masks[:4], truth[:4], valid[:4])
    metric.update(masks[4:], truth[4:], valid[4:])
    areas = []
    for maps in zip(masks.tolist(), truth.tolist(), valid.tolist(), strict=True):
        flat = [
            (a, b)
            for rows in zip(*maps, strict=True)
            for a, b, counts in zip(*rows, strict=True)
            if counts
        ]
        areas.append((sum(a and b for a, b in flat), sum(a or b for a, b in flat)))
    ious = [i / u if u else 0.0 for i, u in areas]
    expected = {
        "oiou": sum(i for i, _ in areas) / sum(u for _, u in areas),
        "miou": sum(ious) / 6,
    } | {f"p@{t}": sum(iou >= t for iou in ious) / 6 for t in (0.5, 0.6, 0.7, 0.8, 0.9)}
    result = {name: float(value) for name, value in metric.compute().items()}
    assert result == pytest.approx(expected, abs=1e-12)
    assert 0 < result["p@0.9"] < result["p@0.5"] < 1


def test_an_overlap_equal_to_the_threshold_counts() -> None:
    metric = MaskMetrics()
    truth = torch.ones(1, 1, 10, dtype=torch.bool)
    mask = torch.arange(10)[None, None] < 6
    metric.update(mask, truth, truth)
    assert float(metric.compute()["p@0.6"]) == 1
    assert float(metric.compute()["p@0.7"]) == 0


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_a_data_set_without_sentences_is_refused() -> None:
    with pytest.raises(InputError, match="no sentence was seen"):
        MaskMetrics().compute()
