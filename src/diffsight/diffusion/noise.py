"""Noise over the continuous time of DDP, and the steps from noise to a label map.

A state is ``alpha * encoded label + sigma * noise``; at time 0 it is the label, at time 1 noise.
"""

import abc
import math

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.config import Configurable
from diffsight.errors import InputError

Time = Float[Tensor, " b"]
State = Float[Tensor, "b c h w"]
SHIFT, STRETCH = 0.0002, 0.00025  # of the cosine, so that it is finite at both ends
LEAST_ODDS, LEAST_SIGMA = 1e-5, 1e-8
LAST_TIME = 0.999  # of a training


class AbstractNoise(Configurable, abc.ABC):
    """How much noise there is at a time."""

    @abc.abstractmethod
    def log_snr(self, time: Time) -> Time:
        """Return the logarithm of ``alpha^2 / sigma^2``."""

    def levels(self, time: Time) -> tuple[Time, Time]:
        """Return alpha and sigma, whose squares add up to 1."""
        log_snr = self.log_snr(time)
        return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()


class CosineNoise(AbstractNoise):
    """``alpha = cos(pi t / 2)``, slightly shifted and stretched (DDP, segmentation)."""

    def log_snr(self, time: Time) -> Time:
        """Return at most 11.5, from a time of 0.0018 on less."""
        # near 1 the order of operations decides the third digit in 32 bit: this is the authors'
        angle = (time + SHIFT) / (1 + STRETCH) * math.pi * 0.5
        return -(angle.cos() ** -2 - 1).clamp(min=LEAST_ODDS).log()


class LinearNoise(AbstractNoise):
    """Linear betas in continuous time (a row of DDP's table 5)."""

    def log_snr(self, time: Time) -> Time:
        """Return 9.2 to -10."""
        return -torch.expm1(1e-4 + 10 * time**2).log()


class UnclampedCosineNoise(AbstractNoise):
    """The cosine without a limit near time 0 (DDP, depth)."""

    def log_snr(self, time: Time) -> Time:
        """Return the logarithm of the ratio of the squares."""
        alpha, sigma = self.levels(time)
        return 2 * (alpha.log() - sigma.log())

    def levels(self, time: Time) -> tuple[Time, Time]:
        """Return the cosine and the sine."""
        alpha_squared = ((time + SHIFT) / (1 + STRETCH) * math.pi / 2).cos() ** 2
        return alpha_squared.sqrt(), (1 - alpha_squared).sqrt()


def time_pairs(
    steps: int, *, time_difference: float = 1.0, start: float = 0.0
) -> list[tuple[float, float]]:
    """Return the time of every step, and the time that its state is brought to.

    With a time difference the state is cleaner than the time of the next step says (asymmetric
    intervals, DDP section 3.3). Three steps with a difference of 1: (1, 1/3), (2/3, 0), (1/3, 0).

    Args:
        steps: of the sampler.
        time_difference: further steps that a state is brought towards 0.
        start: smallest time, 0 is the label itself.

    Raises:
        InputError: if a number is out of range.
    """
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}")
    if not (math.isfinite(time_difference) and time_difference >= 0):
        raise InputError(f"time_difference must be 0 or more, got {time_difference:g}")
    if not 0 <= start < 1:
        raise InputError(f"start must be in [0, 1), got {start:g}")
    return [
        (
            1 - k / steps * (1 - start),
            max(1 - (k + 1 + time_difference) / steps * (1 - start), start),
        )
        for k in range(steps)
    ]


def add_noise(noise: AbstractNoise, encoded: State, normal: State, time: Time) -> State:
    """Return the state of an encoded label at a time."""
    alpha, sigma = (level[:, None, None, None] for level in noise.levels(time))
    return alpha * encoded + sigma * normal


def ddim_step(
    noise: AbstractNoise, state: State, encoded: State, now: Time, following: Time
) -> State:
    """Return the state at the next time, given what is predicted now, without new noise."""
    alpha, sigma = (level[:, None, None, None] for level in noise.levels(now))
    error = (state - alpha * encoded) / sigma.clamp(min=LEAST_SIGMA)
    alpha, sigma = (level[:, None, None, None] for level in noise.levels(following))
    return alpha * encoded + sigma * error


def ddpm_step(
    noise: AbstractNoise,
    state: State,
    encoded: State,
    now: Time,
    following: Time,
    normal: State,
) -> State:
    """Return a state at the next time, drawn from its posterior."""
    here, there = noise.log_snr(now), noise.log_snr(following)
    change = -torch.expm1(here - there)[:, None, None, None]
    alpha = noise.levels(now)[0][:, None, None, None]
    next_alpha, next_sigma = (level[:, None, None, None] for level in noise.levels(following))
    mean = next_alpha * (state * (1 - change) / alpha + change * encoded)
    spread = next_sigma * change.clamp(min=0).sqrt()
    return mean + torch.where(following[:, None, None, None] > 0, spread * normal, 0)
