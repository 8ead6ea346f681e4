"""Baselines on held-out images, and the sentence that compares a method with them."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from diffsight.adaptation.verdict import fold_baselines, measure_baselines, verdict
from diffsight.tasks import AbstractTask, Depth, Normals, Segmentation, Values
from diffsight.types import Target

SEGMENTATION = Segmentation(("sky", "sea", "sand"))


def ids(*rows: Sequence[int], unlabelled: int = -1) -> Target:
    label = torch.tensor([rows])
    return Target(label.clamp(min=0), label != unlabelled)


def test_the_mean_map_of_classes_has_the_most_frequent_class_of_each_pixel() -> None:
    train = [ids((0, 1), (2, 2)), ids((0, 1), (2, 1)), ids((1, 1), (-1, 2))]
    maps = fold_baselines(SEGMENTATION, train)
    assert maps["constant"].tolist() == [[[1]]]
    assert maps["mean map"].tolist() == [[[0, 1], [2, 2]]]
    train = [ids((0, -1), (0, -1))]
    assert fold_baselines(SEGMENTATION, train)["mean map"].tolist() == [[[0, 0], [0, 0]]]


def test_the_mean_map_of_numbers_has_the_mean_of_each_pixel() -> None:
    task = Values(channels=2)
    one = torch.tensor([[[1.0, 3.0]], [[2.0, math.nan]]])[None]
    two = torch.tensor([[[3.0, 9.0]], [[4.0, 9.0]]])[None]
    valid = torch.tensor([[[True, False]]])
    maps = fold_baselines(task, [Target(one, valid), Target(two, valid)])
    assert maps["constant"].flatten().tolist() == [2.0, 3.0]
    assert maps["mean map"].tolist() == [[[2.0, 2.0]], [[3.0, 3.0]]]


@pytest.mark.parametrize(
    "task", [SEGMENTATION, Depth(), Normals(), Values(), Values(channels=3)], ids=str
)
def test_every_task_scores_both_baselines_on_images_of_any_size(task: AbstractTask) -> None:
    generator = torch.Generator().manual_seed(0)

    def target(height: int, width: int) -> Target:
        valid = torch.rand(1, height, width, generator=generator) > 0.2
        if task is SEGMENTATION:
            return Target(torch.randint(3, (1, height, width), generator=generator), valid)
        label: Tensor = torch.rand(1, task.outputs[0].channels, height, width, generator=generator)
        return Target(label + 0.1, valid)

    sums = measure_baselines(task, [target(8, 6), target(6, 8)], [target(5, 9), target(12, 4)])
    assert {name: len(rows) for name, rows in sums.items()} == {"constant": 2, "mean map": 2}
    for rows in sums.values():
        assert all(math.isfinite(task.score(row)) for row in rows)
        figures = task.figures(torch.stack(rows).sum(dim=0))
        assert figures[task.metric_name] == task.score(torch.stack(rows).sum(dim=0))


@pytest.mark.parametrize(
    ("own", "text"),
    [
        (
            (1.1, 1.0, 1.2),
            "no better than the mean map: more labels, more steps, or another backbone",
        ),
        (
            (0.95, 0.96, 0.94),
            "barely better than the mean map: more labels, more steps, or another backbone",
        ),
        # a fifth less on average, but not on every image
        (
            (0.2, 1.3, 0.9),
            "barely better than the mean map: more labels, more steps, or another backbone",
        ),
        ((0.5, 0.6, 0.7), "clearly better than the mean map: 40 % of its error is gone"),
        ((math.nan, 0.5, 0.5), ""),
    ],
)
def test_a_verdict_compares_with_the_better_baseline(own: tuple[float, ...], text: str) -> None:
    per_image = {"head": own, "constant": (2.0, 2.0, 2.0), "mean map": (1.0, 1.0, 1.0)}
    scores = {name: sum(rows) / 3 for name, rows in per_image.items()}
    assert verdict(Depth(), scores, per_image, "head") == text


def test_for_scores_in_percent_the_error_is_the_distance_to_100() -> None:
    per_image = {"head": (60.0, 60.0), "constant": (20.0, 20.0), "mean map": (10.0, 10.0)}
    scores = {name: rows[0] for name, rows in per_image.items()}
    text = "clearly better than the constant: 50 % of its error is gone"
    assert verdict(SEGMENTATION, scores, per_image, "head") == text


def test_figures_of_a_task_are_its_metric_and_further_metrics() -> None:
    truth = Target(torch.tensor([[[[1.0, 2.0, 4.0]]]]), torch.ones(1, 1, 3, dtype=torch.bool))
    figures = Depth().figures(Depth().measure(torch.tensor([[[[1.2, 2.0, 8.0]]]]), truth))
    assert figures["AbsRel"] == pytest.approx((0.2 + 0 + 1) / 3)
    assert figures["d1"] == pytest.approx(2 / 3)
    assert figures["RMSE, m"] == pytest.approx(math.sqrt((0.04 + 16) / 3))
    axis = torch.tensor([[[[0.0]], [[0.0]], [[1.0]]]])
    tilted = torch.tensor([[[[0.0]], [[math.sin(0.35)]], [[math.cos(0.35)]]]])  # 20.05 degrees
    target = Target(axis, torch.ones(1, 1, 1, dtype=torch.bool))
    figures = Normals().figures(Normals().measure(tilted, target))
    assert list(figures.values()) == pytest.approx([math.degrees(0.35), 0, 100, 100])
    pixels = Target(torch.tensor([[[0, 0, 1, 1]]]), torch.ones(1, 1, 4, dtype=torch.bool))
    sums = SEGMENTATION.measure(torch.tensor([[[0, 1, 1, 1]]]), pixels)
    assert SEGMENTATION.figures(sums) == {
        "mIoU, %": pytest.approx(100 * (1 / 2 + 2 / 3) / 2),
        "pixel accuracy, %": 75.0,
        "IoU sky, %": 50.0,
        "IoU sea, %": pytest.approx(200 / 3),
    }
