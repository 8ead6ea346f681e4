"""Schedules give the learning rates of the authors' code at several steps."""

import pytest

from diffsight.training.schedules import (
    Clock,
    Constant,
    Cosine,
    CosineCycle,
    Poly,
    RiseAndFall,
    Steps,
)


def at_epoch(epoch: float, epochs: int, per_epoch: int = 1000) -> Clock:
    return Clock(
        step=round(epoch * per_epoch), steps=epochs * per_epoch, steps_per_epoch=float(per_epoch)
    )


@pytest.mark.parametrize(
    ("epoch", "lr"),
    [
        (0, 3.0e-5),
        (1, 8.02e-5),
        (6, 2.819e-4),
        (12, 5.0e-4),
        (18, 2.481e-4),
        (24, 3.0e-5),
        (24.5, 3.0e-5),
        (25, 3.0e-5),
    ],
)
def test_rise_and_fall_gives_the_learning_rates_of_vpd_depth(epoch, lr):
    schedule = RiseAndFall(min_lr=3e-5)
    assert schedule.lr(5e-4, at_epoch(epoch, 25)) == pytest.approx(lr, rel=5e-4)


@pytest.mark.parametrize(
    ("epoch", "lr"), [(0, 3e-5), (0.5, 1.15e-4), (1, 2e-4), (7.5, 1.327e-4), (15, 3.19e-5)]
)
def test_cosine_gives_the_learning_rates_of_evp_on_nyu(epoch, lr):
    schedule = Cosine(min_lr=3e-5, warmup_epochs=1.0)
    assert schedule.lr(2e-4, at_epoch(epoch, 15)) == pytest.approx(lr, rel=2e-3)


@pytest.mark.parametrize(
    ("epoch", "lr"), [(0, 1e-7), (0.5, 1.5e-4), (1, 3e-4), (7.5, 1.812e-4), (15, 3.38e-6)]
)
def test_cosine_gives_the_learning_rates_of_evp_on_kitti(epoch, lr):
    schedule = Cosine(min_lr=1e-7, warmup_epochs=1.0)
    assert schedule.lr(3e-4, at_epoch(epoch, 15)) == pytest.approx(lr, rel=1e-3)


@pytest.mark.parametrize(
    ("step", "lr"),
    [
        (0, 8e-5 * 1e-6),
        (750, 8e-5 * (1 - 750 / 80_000) * (1 - 0.5 * (1 - 1e-6))),
        (1500, 8e-5 * (1 - 1500 / 80_000)),
        (40_000, 4e-5),
        (80_000, 0.0),
    ],
)
def test_poly_gives_the_learning_rates_of_vpd_segmentation(step, lr):
    schedule = Poly(power=1.0, warmup_steps=1500)
    clock = Clock(step=step, steps=80_000, steps_per_epoch=1263.0)
    assert schedule.lr(8e-5, clock) == pytest.approx(lr, rel=1e-12)


@pytest.mark.parametrize(("step", "factor"), [(0, 1.0), (500, 0.5**0.9), (1000, 0.0)])
def test_poly_gives_the_learning_rates_of_vpd_referring_segmentation(step, factor):
    clock = Clock(step=step, steps=1000, steps_per_epoch=25.0)
    assert Poly(power=0.9).lr(5e-5, clock) == pytest.approx(5e-5 * factor, rel=1e-12)


def test_steps_gives_the_learning_rates_of_meta_prompts_pose():
    """It warms up for 500 steps, and is divided by 10 at epochs 170 and 200."""
    schedule = Steps(milestones=(170.0, 200.0), warmup_steps=500)
    rates = {0: 5e-7, 0.25: 2.5025e-4, 0.5: 5e-4, 169.9: 5e-4, 170: 5e-5, 199.9: 5e-5, 200: 5e-6}
    for epoch, lr in rates.items():
        assert schedule.lr(5e-4, at_epoch(epoch, 210)) == pytest.approx(lr, rel=1e-6)


def test_constant_keeps_the_learning_rate():
    assert Constant().lr(0.1, Clock(step=7, steps=9, steps_per_epoch=3.0)) == 0.1


@pytest.mark.parametrize(
    ("fraction", "lr", "momentum"),
    [
        (0.0, 5e-5, 0.9),
        (0.2, 2.75e-4, 0.9 * (1 + 0.85 / 0.95) / 2),
        (0.4, 5e-4, 0.9 * 0.85 / 0.95),
        (0.7, 2.500025e-4, 0.9 * (1 + 0.85 / 0.95) / 2),
        (1.0, 5e-9, 0.9),
    ],
)
def test_cosine_cycle_gives_the_learning_rates_and_momenta_of_ddp_maps(fraction, lr, momentum):
    """The learning rate rises to ten times its start and falls; the momentum does the opposite."""
    schedule, clock = CosineCycle(), Clock(round(1000 * fraction), 1000, 100.0)
    assert schedule.lr(5e-5, clock) == pytest.approx(lr, rel=1e-6)
    assert schedule.momentum(0.9, clock) == pytest.approx(momentum)
