"""BEV map segmentation: focal loss, IoU at the best threshold, pictures."""

import math

import pytest
import torch
from tests.contracts import TaskContract
from tests.support import noise

from diffsight.errors import InputError
from diffsight.outputs import Masks
from diffsight.tasks import BEV
from diffsight.types import Target

NAMES = ("road", "crossing")


class TestBEV(TaskContract):
    size = (8, 8)

    def build(self) -> BEV:
        return BEV(NAMES, cells=8)

    def target(self) -> Target:
        label = (noise(2, 2, 8, 8, seed=7) > 0).float()
        valid = torch.ones(2, 8, 8, dtype=torch.bool)
        valid[0, 2, 3:6] = False
        label[0, :, 2, 3:6] = torch.nan
        return Target(label, valid)

    def test_constant_and_baselines_are_worse_than_the_truth(self) -> None:
        task, target = self.build(), self.target()
        label = torch.where(target.valid[:, None], target.label, 0)
        clean = Target(label, target.valid)
        baselines = task.baselines(zip(label, target.valid, strict=True))
        assert list(baselines) == ["constant mean", "mean map"]
        torch.testing.assert_close(
            task.constant(label, target.valid), baselines["constant mean"].flatten()
        )
        first = Target(label[:1], target.valid[:1])
        for baseline in baselines.values():
            prediction = task.from_baseline(baseline, first)
            score = task.score(task.measure(prediction.to_label()[None], first))
            assert score < 99
        assert task.score(task.measure(label, clean)) == pytest.approx(100)


def test_the_loss_is_the_focal_loss_of_one_cell() -> None:
    task = BEV(NAMES, cells=1)
    logits = torch.tensor([2.0, -1.0])
    target = Target(torch.tensor([[[[1.0]], [[1.0]]]]), torch.ones(1, 1, 1, dtype=torch.bool))
    p = [1 / (1 + math.exp(-x)) for x in logits.tolist()]
    expected = sum(-math.log(q) * (1 - q) ** 2 for q in p)
    output = Masks(logits[None, :, None, None])
    assert float(task.loss(output, target)["loss"]) == pytest.approx(expected, rel=1e-5)
    again = task.loss(output.normalised(), target)["loss"]
    assert float(again) == pytest.approx(expected, rel=1e-4)


def test_the_iou_of_a_class_is_that_of_its_best_threshold() -> None:
    """At threshold 0.55, two of three road cells are found and none is a false positive."""
    task = BEV(NAMES, cells=2)
    truth = torch.tensor([[[1.0, 1.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])[None]
    probability = torch.tensor([[[0.9, 0.62], [0.2, 0.52]], [[0.1, 0.4], [0.1, 0.37]]])[None]
    target = Target(truth, torch.ones(1, 2, 2, dtype=torch.bool))
    figures = task.figures(task.measure(probability, target))
    assert figures["IoU road, %"] == pytest.approx(100 * 2 / 3)
    # at 0.35, with one true and one false positive
    assert figures["IoU crossing, %"] == pytest.approx(50)
    assert figures["mean IoU, %"] == pytest.approx((100 * 2 / 3 + 50) / 2)


def test_in_pictures_the_vehicle_faces_upwards() -> None:
    probability = torch.zeros(1, 4, 4)
    probability[0, 3, 3] = 1  # a cell far ahead on the left, which is drawn at the top left
    (prediction,) = BEV(("road",), cells=4).decode(Masks(60 * probability[None] - 30))
    picture = prediction.draw()
    assert (picture[:, 0, 0] != 255).any()
    assert (picture.flatten(1)[:, 1:] == 255).all()


def test_unusable_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="one or more different class names"):
        BEV(("a", "a"))
    with pytest.raises(InputError, match="a map of 0 cells"):
        BEV(cells=0)
