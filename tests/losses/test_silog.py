"""Scale-invariant logarithmic losses: expected values, and special cases."""

import math

import pytest
import torch

from diffsight.losses.silog import sigloss, silog


def depths(seed: int = 0, shape: tuple[int, ...] = (2, 5, 7)) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 9 + 0.5


def everywhere(target: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(target, dtype=torch.bool)


@pytest.mark.parametrize("factor", [2.0, 0.5, 1.1])
def test_a_wrong_scale_costs_its_logarithm_times_the_square_root_of_one_half(factor: float) -> None:
    target = depths()
    loss = silog(factor * target, target, everywhere(target))
    assert loss.item() == pytest.approx(math.sqrt(0.5) * abs(math.log(factor)), abs=1e-6)


def test_doubled_depth_has_the_expected_loss() -> None:
    target = depths()
    assert float(silog(2 * target, target, everywhere(target))) == pytest.approx(0.49013, abs=5e-6)


def test_the_means_are_taken_over_the_valid_pixels_of_the_whole_batch() -> None:
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


def test_a_perfect_prediction_has_loss_zero_and_gradient_zero() -> None:
    target = depths()
    prediction = target.clone().requires_grad_()
    loss = silog(prediction, target, everywhere(target))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(prediction.grad, torch.zeros_like(target))


def test_without_a_valid_pixel_the_loss_and_the_gradient_are_zero() -> None:
    prediction = depths().requires_grad_()
    loss = silog(prediction, depths(1), torch.zeros_like(prediction, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(prediction.grad, torch.zeros_like(prediction))


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_predictions_of_zero_or_less_give_a_finite_loss(value: float) -> None:
    prediction = torch.full((1, 2, 2), value, requires_grad=True)
    target = depths(shape=(1, 2, 2))
    loss = silog(prediction, target, everywhere(target))
    loss.backward()
    assert math.isfinite(loss.item())
    assert loss.item() > 50
    assert prediction.grad.isfinite().all()


def test_the_gradient_agrees_with_finite_differences() -> None:
    prediction = depths(4, (1, 2, 3)).double().requires_grad_()
    target = depths(5, (1, 2, 3)).double()
    assert torch.autograd.gradcheck(
        lambda p: silog(p, target, everywhere(target)), (prediction,), raise_exception=True
    )


def test_the_loss_of_half_precision_inputs_is_computed_in_float32() -> None:
    target = depths()
    loss = silog((2 * target).half(), target.half().float(), everywhere(target))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.49013, abs=1e-3)


def test_sigloss_agrees_with_its_definition() -> None:
    """DDP uses unbiased variance, adds 1 mm before the logarithm, and weighs the mean by 0.15."""
    target, prediction = depths(1), depths(2)
    valid = depths(3) > 4
    target = torch.where(valid, target, float("nan"))
    d = (prediction[valid].double() + 1e-3).log() - (target[valid].double() + 1e-3).log()
    expected = (d.var() + 0.15 * d.mean() ** 2).sqrt()
    assert float(sigloss(prediction, target, valid)) == pytest.approx(float(expected), rel=1e-6)


def test_sigloss_has_finite_gradients_in_special_cases() -> None:
    target = depths()
    for prediction, valid in (
        (target.clone(), everywhere(target)),
        (torch.zeros_like(target), everywhere(target)),
        (depths(1), torch.zeros_like(target, dtype=torch.bool)),
    ):
        prediction.requires_grad_()
        loss = sigloss(prediction, target, valid)
        loss.backward()
        assert loss.isfinite()
        assert prediction.grad is not None
        assert prediction.grad.isfinite().all()
