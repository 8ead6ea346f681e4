"""SI-log: the spec's figures and the corners."""

import math

import pytest
import torch

from diffsight.losses.silog import sigloss, silog


def depths(seed: int = 0, shape: tuple[int, ...] = (2, 5, 7)) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 9 + 0.5


def everywhere(target: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(target, dtype=torch.bool)


@pytest.mark.parametrize("factor", [2.0, 0.5, 1.1])
def test_a_wrong_scale_costs_the_root_of_half_its_logarithm(factor: float) -> None:
    target = depths()
    loss = silog(factor * target, target, everywhere(target))
    assert loss.item() == pytest.approx(math.sqrt(0.5) * abs(math.log(factor)), abs=1e-6)


def test_figure_of_the_specification() -> None:
    target = depths()
    assert float(silog(2 * target, target, everywhere(target))) == pytest.approx(0.49013, abs=5e-6)


def test_definition_over_the_valid_pixels_of_the_whole_batch() -> None:
    target, prediction = depths(1), depths(2)
    valid = depths(3) > 4
    target = torch.where(valid, target, float("nan"))
    d = [
        math.log(g) - math.log(p)
        for g, p, v in zip(
            target.flatten().tolist(),
            prediction.flatten().tolist(),
            valid.flatten().tolist(),
            strict=True,
        )
        if v
    ]
    mean = sum(d) / len(d)
    for focus in (0.5, 0.85, 1.0):
        expected = math.sqrt(sum(x * x for x in d) / len(d) - focus * mean**2)
        loss = silog(prediction, target, valid, variance_focus=focus)
        assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_perfect_prediction_has_no_loss_and_no_gradient() -> None:
    target = depths()
    prediction = target.clone().requires_grad_()
    loss = silog(prediction, target, everywhere(target))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(prediction.grad, torch.zeros_like(target))


def test_no_valid_pixel_is_no_loss_with_a_gradient_of_zeros() -> None:
    prediction = depths().requires_grad_()
    loss = silog(prediction, depths(1), torch.zeros_like(prediction, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(prediction.grad, torch.zeros_like(prediction))


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_saturated_predictions_are_finite(value: float) -> None:
    prediction = torch.full((1, 2, 2), value, requires_grad=True)
    target = depths(shape=(1, 2, 2))
    loss = silog(prediction, target, everywhere(target))
    loss.backward()
    assert math.isfinite(loss.item())
    assert loss.item() > 50
    assert prediction.grad.isfinite().all()


def test_gradient_is_that_of_the_formula() -> None:
    prediction = depths(4, (1, 2, 3)).double().requires_grad_()
    target = depths(5, (1, 2, 3)).double()
    assert torch.autograd.gradcheck(
        lambda p: silog(p, target, everywhere(target)), (prediction,), raise_exception=True
    )


def test_half_precision_is_computed_in_single_precision() -> None:
    target = depths()
    loss = silog((2 * target).half(), target.half().float(), everywhere(target))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.49013, abs=1e-3)


def test_sigloss_is_its_definition() -> None:
    """DDP: unbiased variance, a millimetre in the logarithms, 0.15 times the squared mean."""
    target, prediction = depths(1), depths(2)
    valid = depths(3) > 4
    target = torch.where(valid, target, float("nan"))
    d = (prediction[valid].double() + 1e-3).log() - (target[valid].double() + 1e-3).log()
    expected = (d.var() + 0.15 * d.mean() ** 2).sqrt()
    assert float(sigloss(prediction, target, valid)) == pytest.approx(float(expected), rel=1e-6)


def test_sigloss_has_finite_gradients_in_its_corners() -> None:
    target = depths()
    for prediction, valid in (
        (target.clone(), everywhere(target)),
        (torch.zeros_like(target), everywhere(target)),
        (depths(1), torch.zeros_like(target, dtype=torch.bool)),
    ):
        learned = prediction.requires_grad_()
        loss = sigloss(learned, target, valid)
        loss.backward()
        assert loss.isfinite()
        assert learned.grad is not None
        assert learned.grad.isfinite().all()
