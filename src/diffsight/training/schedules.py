"""Learning-rate schedules as pure functions of the progress of a training."""

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from diffsight.config import Configurable
from diffsight.errors import InputError


@dataclass(frozen=True)
class Clock:
    """Progress of a training.

    Attributes:
        step: finished optimiser steps.
        steps: optimiser steps of the whole training.
        steps_per_epoch: optimiser steps per epoch; may be a fraction.
    """

    step: int
    steps: int
    steps_per_epoch: float

    @property
    def fraction(self) -> float:
        """Finished fraction of the training, in [0, 1]."""
        return self.step / self.steps

    @property
    def epoch(self) -> float:
        """Finished epochs, as a fraction."""
        return self.step / self.steps_per_epoch

    @property
    def epochs(self) -> float:
        """Epochs of the whole training."""
        return self.steps / self.steps_per_epoch


class AbstractSchedule(Configurable, abc.ABC):
    """Learning rate over a training; parameter groups multiply it by their own scale."""

    @abc.abstractmethod
    def lr(self, base_lr: float, clock: Clock) -> float:
        """Return the learning rate of the next step, given the optimiser's ``base_lr``."""

    def momentum(self, base: float, clock: Clock) -> float:
        """Return the momentum of the next step; the default is the optimiser's ``base``."""
        return base


def warmed_up(clock: Clock, steps: int, ratio: float) -> float:
    """Return a factor that rises linearly from ``ratio`` to 1 over the first ``steps`` steps."""
    if clock.step >= steps:
        return 1.0
    return 1 - (1 - clock.step / steps) * (1 - ratio)


class Constant(AbstractSchedule):
    """A constant learning rate."""

    def lr(self, base_lr: float, clock: Clock) -> float:
        """Return ``base_lr``."""
        return base_lr


class RiseAndFall(AbstractSchedule):
    """Polynomial rise from ``min_lr`` to ``base_lr``, and an equally long fall.

    It is the schedule of the depth models of VPD, and of MIM before it.

    Args:
        min_lr: learning rate at the start, and from ``2 * peak`` on.
        peak: fraction of the training after which the rate is highest. VPD: epoch 12 of 25, 0.48.
        power: exponent of the polynomial.
    """

    def __init__(self, *, min_lr: float, peak: float = 0.48, power: float = 0.9) -> None:
        self.min_lr = min_lr
        self.peak = peak
        self.power = power

    def lr(self, base_lr: float, clock: Clock) -> float:
        """Return a rate that rises from ``min_lr`` to ``base_lr`` and falls to ``min_lr``."""
        span, x = base_lr - self.min_lr, clock.fraction / self.peak
        if x < 1:
            return self.min_lr + span * x**self.power
        return max(base_lr - span * (x - 1) ** self.power, self.min_lr)


class Poly(AbstractSchedule):
    """Polynomial decay to ``min_lr`` at the end, with linear warm-up.

    VPD, segmentation: power 1, 1500 warm-up steps. VPD, referring: power 0.9, no warm-up.

    Args:
        power: exponent of the polynomial.
        min_lr: learning rate at the end.
        warmup_steps: steps in which a factor rises from ``warmup_ratio`` to 1.
        warmup_ratio: factor of the first step.
    """

    def __init__(
        self,
        *,
        power: float = 0.9,
        min_lr: float = 0.0,
        warmup_steps: int = 0,
        warmup_ratio: float = 1e-6,
    ) -> None:
        self.power = power
        self.min_lr = min_lr
        self.warmup_steps = warmup_steps
        self.warmup_ratio = warmup_ratio

    def lr(self, base_lr: float, clock: Clock) -> float:
        """Return the decayed rate, multiplied by the warm-up factor."""
        decayed = (base_lr - self.min_lr) * (1 - clock.fraction) ** self.power + self.min_lr
        return decayed * warmed_up(clock, self.warmup_steps, self.warmup_ratio)


class Cosine(AbstractSchedule):
    """Linear warm-up from ``min_lr``, then a half cosine as long as the whole training (EVP).

    The cosine starts after the warm-up, so the training ends a little above ``min_lr``, as the
    authors' did.

    Args:
        min_lr: learning rate before the warm-up and at the end of the cosine.
        warmup_epochs: length of the warm-up.
    """

    def __init__(self, *, min_lr: float, warmup_epochs: float = 1.0) -> None:
        self.min_lr = min_lr
        self.warmup_epochs = warmup_epochs

    def lr(self, base_lr: float, clock: Clock) -> float:
        """Return a rate that rises from ``min_lr`` to ``base_lr`` and falls again."""
        span = base_lr - self.min_lr
        if clock.epoch < self.warmup_epochs:
            return self.min_lr + span * clock.epoch / self.warmup_epochs
        t = (clock.epoch - self.warmup_epochs) / clock.epochs
        return self.min_lr + span * 0.5 * (1 + math.cos(math.pi * t))


class Steps(AbstractSchedule):
    """Step decay at given epochs, after a linear warm-up (mmpose).

    Meta Prompts, pose: epochs 170 and 200 of 210, 500 warm-up steps.

    Args:
        milestones: epochs of the decays.
        factor: factor on the learning rate at every milestone.
        warmup_steps: steps in which a factor rises from ``warmup_ratio`` to 1.
        warmup_ratio: factor of the first step.
    """

    def __init__(
        self,
        *,
        milestones: Sequence[float],
        factor: float = 0.1,
        warmup_steps: int = 0,
        warmup_ratio: float = 1e-3,
    ) -> None:
        self.milestones = tuple(milestones)
        self.factor = factor
        self.warmup_steps = warmup_steps
        self.warmup_ratio = warmup_ratio

    def lr(self, base_lr: float, clock: Clock) -> float:
        """Return ``base_lr`` times one factor for every milestone that has passed."""
        passed = sum(clock.epoch >= milestone for milestone in self.milestones)
        rate = base_lr * self.factor**passed
        return rate * warmed_up(clock, self.warmup_steps, self.warmup_ratio)


class HalfCosine(AbstractSchedule):
    """Constant rate, then half a period of a cosine down to 0 at the end.

    It is the schedule of trainings on few labelled images, and of DDP's depth models.

    Args:
        constant_fraction: fraction of the training before the decay.
        warmup_steps: steps in which a factor rises from ``warmup_ratio`` to 1.
        warmup_ratio: factor of the first step.
    """

    def __init__(
        self,
        *,
        constant_fraction: float = 0.0,
        warmup_steps: int = 0,
        warmup_ratio: float = 1e-3,
    ) -> None:
        self.constant_fraction = constant_fraction
        self.warmup_steps = warmup_steps
        self.warmup_ratio = warmup_ratio

    def lr(self, base_lr: float, clock: Clock) -> float:
        """Return a rate that falls from ``base_lr`` to 0, multiplied by the warm-up factor."""
        return self._decayed(base_lr, clock) * warmed_up(
            clock, self.warmup_steps, self.warmup_ratio
        )

    def _decayed(self, base_lr: float, clock: Clock) -> float:
        if clock.fraction < self.constant_fraction:
            return base_lr
        angle = torch.pi * (clock.fraction - self.constant_fraction) / (1 - self.constant_fraction)
        return base_lr * (0.5 + 0.5 * float(torch.cos(torch.tensor(angle))))


class CosineCycle(AbstractSchedule):
    """A rise along half a period of a cosine, and a fall along another (DDP's BEV maps).

    The momentum falls while the rate rises, and rises while it falls. The factors are those of
    mmcv's ``cyclic``.

    Args:
        peak: factor on ``base_lr`` at the top.
        end: factor on ``base_lr`` at the end.
        rise: fraction of the training before the top.
        momentum_factor: factor on the momentum at the top.

    Raises:
        InputError: if the rise takes the whole training.
    """

    def __init__(
        self,
        *,
        peak: float = 10.0,
        end: float = 1e-4,
        rise: float = 0.4,
        momentum_factor: float = 0.85 / 0.95,
    ) -> None:
        if not 0 <= rise < 1:
            raise InputError(f"rise must be at least 0 and less than 1, got {rise:g}")
        self.peak = peak
        self.end = end
        self.rise = rise
        self.momentum_factor = momentum_factor

    def lr(self, base_lr: float, clock: Clock) -> float:
        """Return ``base_lr`` times a factor that goes from 1 to ``peak`` to ``end``."""
        return base_lr * self._between(1.0, self.peak, self.end, clock)

    def momentum(self, base: float, clock: Clock) -> float:
        """Return ``base`` times a factor that goes from 1 to ``momentum_factor`` to 1."""
        return base * self._between(1.0, self.momentum_factor, 1.0, clock)

    def _between(self, start: float, top: float, end: float, clock: Clock) -> float:
        if clock.fraction < self.rise:
            return _half_cosine(start, top, clock.fraction / self.rise)
        return _half_cosine(top, end, (clock.fraction - self.rise) / (1 - self.rise))


def _half_cosine(start: float, end: float, fraction: float) -> float:
    return end + 0.5 * (start - end) * (math.cos(math.pi * fraction) + 1)
