"""Noise schedules over the continuous time of DDP, and the steps of its samplers.

A state is ``alpha * encoded label + sigma * noise``. At time 0 it is the encoded label (almost
without noise), at time 1 it is noise.
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
SHIFT, STRETCH = 0.0002, 0.00025  # constants that keep the cosine schedules finite at both ends
MIN_ODDS = 1e-5  # least ratio sigma^2 / alpha^2 of the cosine schedule
MIN_SIGMA = 1e-8  # least divisor of a DDIM step
LAST_TIME = 0.999  # largest time that is drawn in training


class AbstractNoise(Configurable, abc.ABC):
    """A noise schedule: the signal-to-noise ratio at every time from 0 to 1."""

    @abc.abstractmethod
    def log_snr(self, time: Time) -> Time:
        """Return the logarithm of the signal-to-noise ratio ``alpha^2 / sigma^2``."""

    def levels(self, time: Time) -> tuple[Time, Time]:
        """Return alpha and sigma, whose squares sum to 1."""
        log_snr = self.log_snr(time)
        return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()


class CosineNoise(AbstractNoise):
    """The schedule ``alpha = cos(pi t / 2)``, slightly shifted and stretched (DDP, segmentation).

    The logarithm of the signal-to-noise ratio is limited to 11.5.
    """

    def log_snr(self, time: Time) -> Time:
        """Return the logarithm of ``alpha^2 / sigma^2``; it is 11.5 up to a time of 0.0018."""
        # the authors' order of operations: near time 1 another order changes the third digit
        angle = (time + SHIFT) / (1 + STRETCH) * math.pi * 0.5
        return -(angle.cos() ** -2 - 1).clamp(min=MIN_ODDS).log()


class LinearNoise(AbstractNoise):
    """The schedule of betas that grow linearly, in continuous time (a row of DDP's table 5)."""

    def log_snr(self, time: Time) -> Time:
        """Return the logarithm of ``alpha^2 / sigma^2``, from 9.2 at time 0 to -10 at time 1."""
        return -torch.expm1(1e-4 + 10 * time**2).log()


class UnclampedCosineNoise(AbstractNoise):
    """The cosine schedule without a limit near time 0 (DDP, depth)."""

    def log_snr(self, time: Time) -> Time:
        """Return the logarithm of ``alpha^2 / sigma^2``."""
        alpha, sigma = self.levels(time)
        return 2 * (alpha.log() - sigma.log())

    def levels(self, time: Time) -> tuple[Time, Time]:
        """Return alpha, the shifted cosine, and sigma, the sine of the same angle."""
        alpha_squared = ((time + SHIFT) / (1 + STRETCH) * math.pi / 2).cos() ** 2
        return alpha_squared.sqrt(), (1 - alpha_squared).sqrt()


def time_pairs(
    steps: int, *, time_difference: float = 1.0, start: float = 0.0
) -> list[tuple[float, float]]:
    """Return, for every step, its time and the time to which its state is denoised.

    With a time difference, a state is denoised beyond the time of the next step (asymmetric
    intervals, DDP section 3.3). For example, three steps with a difference of 1 give
    (1, 1/3), (2/3, 0), (1/3, 0).

    Args:
        steps: number of steps of the sampler.
        time_difference: number of additional steps by which a state is denoised, 0 or more.
        start: smallest time, in [0, 1); 0 is the encoded label.

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
    """Return the state at a time: the encoded label with noise.

    Args:
        noise: noise schedule.
        encoded: encoded label.
        normal: standard normal noise.
        time: time of each row, in [0, 1].
    """
    alpha, sigma = (level[:, None, None, None] for level in noise.levels(time))
    return alpha * encoded + sigma * normal


def ddim_step(
    noise: AbstractNoise, state: State, encoded: State, now: Time, following: Time
) -> State:
    """Return the state at the next time (DDIM), without new noise.

    Args:
        noise: noise schedule.
        state: state at the present time.
        encoded: encoding of the maps that were predicted from ``state``.
        now: present time of each row.
        following: next time of each row.
    """
    alpha, sigma = (level[:, None, None, None] for level in noise.levels(now))
    error = (state - alpha * encoded) / sigma.clamp(min=MIN_SIGMA)
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
    """Return the state at the next time, drawn from its posterior (DDPM).

    Args:
        noise: noise schedule.
        state: state at the present time.
        encoded: encoding of the maps that were predicted from ``state``.
        now: present time of each row.
        following: next time of each row.
        normal: standard normal noise.
    """
    change = -torch.expm1(noise.log_snr(now) - noise.log_snr(following))[:, None, None, None]
    alpha = noise.levels(now)[0][:, None, None, None]
    next_alpha, next_sigma = (level[:, None, None, None] for level in noise.levels(following))
    mean = next_alpha * (state * (1 - change) / alpha + change * encoded)
    std = next_sigma * change.clamp(min=0).sqrt()
    return mean + torch.where(following[:, None, None, None] > 0, std * normal, 0)
