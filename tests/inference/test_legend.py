"""The legend of a picture of classes."""

import numpy as np
import torch

from diffsight.inference.legend import add_legend
from diffsight.tasks import Segmentation
from diffsight.types import Target


def test_the_legend_has_every_colour_and_does_not_change_the_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    colours = {"sky": (10, 20, 200), "a very long name of a class": (200, 30, 10), "sea": (1, 2, 3)}
    sheet = add_legend(picture, colours)
    assert np.array_equal(sheet[:60], picture)
    assert sheet.shape[1] == 90
    for colour in colours.values():
        assert (sheet[60:] == colour).all(axis=2).sum() > 50
    assert add_legend(picture, {}) is picture


def test_the_legend_has_only_classes_that_occur() -> None:
    task = Segmentation(("sky", "sea", "sand"), ids=(3, 5, 9))
    target = Target(torch.tensor([[[0, 2], [2, 2]]]), torch.tensor([[[True, True], [True, False]]]))
    (truth,) = task.truth(target)
    assert list(truth.legend()) == ["sky", "sand"]
