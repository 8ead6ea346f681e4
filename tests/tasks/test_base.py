"""Functions that several tasks share."""

import torch
from tests.support import noise

from diffsight.tasks.base import masked_mean, resize_map


def test_a_baseline_is_resized_to_the_image() -> None:
    numbers = resize_map(torch.tensor([[1.0, 3.0]]), (2, 4))
    assert numbers.shape == (1, 1, 2, 4)
    assert numbers[0, 0, 0].tolist() == [1.0, 1.5, 2.5, 3.0]
    ids = resize_map(torch.tensor([[0, 2**40]]), (1, 4))
    assert ids.tolist() == [[[0, 0, 2**40, 2**40]]]


def test_the_mean_over_no_valid_pixels_and_its_gradient_are_zero() -> None:
    values = noise(1, 2, 3).requires_grad_()
    mean = masked_mean(values, torch.zeros(1, 2, 3).bool())
    mean.backward()
    assert float(mean.detach()) == 0
    assert not values.grad.any()
