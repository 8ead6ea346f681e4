"""Functions that tasks share."""

import torch
from tests.support import noise

from diffsight.tasks.base import masked_mean, resize_map


def test_a_baseline_comes_to_the_size_of_the_image() -> None:
    numbers = resize_map(torch.tensor([[1.0, 3.0]]), (2, 4))
    assert numbers.shape == (1, 1, 2, 4)
    assert numbers[0, 0, 0].tolist() == [1.0, 1.5, 2.5, 3.0]
    ids = resize_map(torch.tensor([[0, 2**40]]), (1, 4))
    assert ids.tolist() == [[[0, 0, 2**40, 2**40]]]


def test_a_mean_over_nothing_is_zero_with_its_graph() -> None:
    values = noise(1, 2, 3).requires_grad_()
    mean = masked_mean(values, torch.zeros(1, 2, 3).bool())
    mean.backward()
    assert float(mean.detach()) == 0
    assert not values.grad.any()
