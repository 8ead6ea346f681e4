"""Referring segmentation: the weighted loss, masks, the best fixed mask."""

import math

import pytest
import torch
from tests.contracts import TaskContract
from tests.support import images, noise

from diffsight.outputs import Classes
from diffsight.tasks import Referring
from diffsight.types import Target

OUTPUT = Classes(torch.tensor([[[[0.0, 1.0, 3.0]], [[0.0, 2.0, 1.0]]]]))
TARGET = Target(torch.tensor([[[0, 1, 255]]]), torch.tensor([[[True, True, False]]]))


class TestReferring(TaskContract):
    def build(self) -> Referring:
        return Referring()

    def target(self) -> Target:
        label = (noise(2, *self.size, seed=2) > 0.3).long()
        return Target(label, images(2, *self.size, seed=3)[:, 0] > 0.3)


def test_the_loss_is_a_weighted_mean_over_the_valid_pixels() -> None:
    loss = Referring().loss(OUTPUT, TARGET)["loss"]
    expected = (0.9 * math.log(2) + 1.1 * math.log(1 + math.exp(-1))) / 2
    assert loss.item() == pytest.approx(expected)
    none = Target(TARGET.label, torch.zeros_like(TARGET.valid))
    assert Referring().loss(OUTPUT, none)["loss"].item() == 0
    plain = Referring().loss(OUTPUT.normalised(), TARGET)["loss"]
    assert plain.item() == pytest.approx((math.log(2) + math.log(1 + math.exp(-1))) / 2)


def test_a_mask_is_decoded_drawn_and_stored() -> None:
    task = Referring()
    (prediction,), (truth,) = task.decode(OUTPUT), task.truth(TARGET)
    assert prediction.mask.tolist() == [[False, True, False]]
    torch.testing.assert_close(prediction.probability[0, 1], torch.tensor(1.0).sigmoid())
    assert truth.mask.tolist() == [[False, True, False]]
    assert prediction.draw()[:, 0].T.tolist() == [[0, 0, 0], [255, 255, 255], [0, 0, 0]]
    drawn = prediction.draw_with(prediction, torch.zeros(3, 1, 3))
    assert drawn[0][0, 0].tolist() == [0, 152, 0]
    panel = task.panel(torch.full((3, 1, 3), 0.5), truth, prediction)
    assert panel.shape == (3, 1, 12)
    assert torch.equal(panel[:, :, 3:6], panel[:, :, 6:9])
    assert (panel[:, :, 9:] == 245).all()
    assert prediction.arrays()["mask"].values.tolist() == [[0, 255, 0]]


def test_the_best_fixed_mask_has_the_largest_overall_iou() -> None:
    labels = torch.tensor([[[1, 1, 0]], [[1, 0, 0]]])
    valid = torch.ones(1, 3).bool()
    baselines = Referring().baselines((label, valid) for label in labels)
    # the first two pixels have an IoU of 3/4, the first pixel alone has 2/3
    assert baselines["best place"].tolist() == [[1, 1, 0]]
    assert baselines["everything"].tolist() == [[1]]


def test_the_task_requires_a_sentence() -> None:
    assert Referring().requires_prompt
