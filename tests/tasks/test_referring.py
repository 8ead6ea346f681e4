import math

import pytest
import torch

from diffsight.tasks import Referring
from diffsight.types import RawOutput, Target

RAW = RawOutput(torch.tensor([[[[0.0, 1.0, 3.0]], [[0.0, 2.0, 1.0]]]]), "logits")
TARGET = Target(torch.tensor([[[0, 1, 255]]]), torch.tensor([[[True, True, False]]]))


def test_loss_is_the_weighted_mean_surprise() -> None:
    loss = Referring().loss(RAW, TARGET)["loss"]
    expected = (0.9 * math.log(2) + 1.1 * math.log(1 + math.exp(-1))) / 2
    assert loss.item() == pytest.approx(expected)
    none = Target(TARGET.label, torch.zeros_like(TARGET.valid))
    assert Referring().loss(RAW, none)["loss"].item() == 0


def test_masks_and_pictures() -> None:
    task = Referring()
    (found,), (truth,) = task.decode(RAW), task.truth(TARGET)
    assert found.mask.tolist() == [[False, True, False]]
    torch.testing.assert_close(found.probability[0, 1], torch.tensor(1.0).sigmoid())
    assert truth.mask.tolist() == [[False, True, False]]
    assert task.draw(found)[:, 0].T.tolist() == [[0, 0, 0], [255, 255, 255], [0, 0, 0]]
    panel = task.panel(torch.full((3, 1, 3), 0.5), truth, found)
    assert panel.shape == (3, 1, 12)
    assert torch.equal(panel[:, :, 3:6], panel[:, :, 6:9])
    assert (panel[:, :, 9:] == 245).all()
    assert torch.equal(task.hflip(RAW).maps, RAW.maps.flip(-1))
