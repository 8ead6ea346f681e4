"""The Lovász-softmax loss."""

import itertools

import pytest
import torch

from diffsight.losses.lovasz import lovasz_softmax


def iou_loss(predicted: torch.Tensor, truth: torch.Tensor, number: int) -> float:
    positive, true = predicted == number, truth == number
    return 1 - float((positive & true).sum() / (positive | true).sum())


def test_for_one_hot_predictions_the_loss_is_one_minus_the_iou_of_the_occurring_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(3, (2, 5, 7), generator=generator)
    predicted = torch.randint(4, (2, 5, 7), generator=generator)
    certain = torch.nn.functional.one_hot(predicted, 4).movedim(-1, 1).float()
    valid = torch.rand(2, 5, 7, generator=generator) < 0.8
    expected = [iou_loss(predicted[valid], truth[valid], number) for number in range(3)]
    loss = lovasz_softmax(certain, truth, valid)
    assert float(loss) == pytest.approx(sum(expected) / 3, abs=1e-6)


def test_for_soft_predictions_the_loss_is_the_mean_over_error_thresholds() -> None:
    """The Lovász extension is the integral of the Jaccard loss over the thresholds."""
    probability = torch.tensor([0.9, 0.7, 0.2, 0.4])
    truth = torch.tensor([1, 0, 1, 0])
    maps = torch.stack([1 - probability, probability])[None, :, None]
    loss = lovasz_softmax(maps, truth[None, None], torch.ones(1, 1, 4, dtype=torch.bool))
    total = 0.0
    for number, p in ((0, 1 - probability), (1, probability)):
        errors = ((truth == number).float() - p).abs()
        edges = [0.0, *sorted(set(errors.tolist()))]
        for low, high in itertools.pairwise(edges):
            wrong = errors >= high  # pixels that are wrong at thresholds in (low, high]
            true = truth == number
            union = true.sum() + (wrong & ~true).sum()
            total += (high - low) * float(1 - (true & ~wrong).sum() / union)
    assert float(loss) == pytest.approx(total / 2, abs=1e-6)


def test_without_labels_loss_and_gradient_are_zero() -> None:
    maps = torch.rand(1, 2, 3, 3, requires_grad=True)
    nothing = torch.zeros(1, 3, 3, dtype=torch.bool)
    loss = lovasz_softmax(maps, torch.zeros(1, 3, 3, dtype=torch.long), nothing)
    loss.backward()
    assert float(loss.detach()) == 0
    assert maps.grad is not None
