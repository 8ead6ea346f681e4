"""Forecast the score with more labelled images from the scores with fewer.

The expected error follows a power law of the number ``n`` of labelled images, ``a + b n^-c`` with
``b >= 0``. A measured score deviates from it in two ways. Scores on ``m`` and ``n`` images that are
held out in turn share ``min(m, n)`` images, so their deviations are correlated like running means:
their covariance is ``s^2 / max(m, n)``. The randomness of every training adds an independent
deviation. The forecast averages over all parameters in proportion to their posterior probability.
Later deviations have the tails of a t distribution, because a single new image, for example the
first one of a class, can change a score by more than all earlier ones did.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular

from diffsight.errors import InputError

MIN_POINTS = 3  # different numbers of labelled images that a forecast needs
SAMPLES = 40_000  # of the parameters, from their prior
PATHS = 4_000  # of the samples, drawn in proportion to their likelihood
EXPONENTS = (0.1, 2.0)  # range of c; its logarithm is uniform
# range of the standard deviation of a score at the last n, as a fraction of the typical score; its
# logarithm is uniform
DEVIATIONS = (0.003, 0.3)
GAIN = 0.3  # scale of the half-normal gain when n doubles, as a fraction of the typical score
TAIL = 3.0  # degrees of freedom of a later deviation: one image can change a score by much
TRAINING_NOISE = (0.1, 0.3, 1.0)  # deviation of a training, as a fraction of s / sqrt(last n)


@dataclass(frozen=True)
class Forecast:
    """Forecast of the held-out score for larger numbers of labelled images.

    Attributes:
        labelled_images: numbers of labelled images.
        score: median forecast for each of them.
        low: lower end of the interval for each of them.
        high: upper end of the interval for each of them.
        level: probability that a later score lies within its interval.
    """

    labelled_images: tuple[int, ...]
    score: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    level: float


def forecast_score(
    history: Sequence[tuple[int, float]],
    *,
    higher_is_better: bool,
    labelled_images: Sequence[int] | None = None,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    level: float = 0.9,
) -> Forecast | None:
    """Return a forecast of the score from the scores that were measured so far.

    Args:
        history: number of labelled images and held-out score of earlier measurements. Of several
            scores for one number the last one counts; scores that are not finite are ignored.
        higher_is_better: whether a higher score is better.
        labelled_images: numbers to forecast; default: n + 1 to 2n, where n is the largest number of
            the history.
        bounds: lowest and highest possible score.
        level: probability of the interval.

    Returns:
        The forecast; None if the history has fewer than three different numbers.

    Raises:
        InputError: if a number of images is below 1, or the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise InputError(f"level {level}: give a probability between 0 and 1")
    points = {int(n): float(score) for n, score in history if np.isfinite(score)}
    if min([*points, *(labelled_images or ())], default=1) < 1:
        raise InputError("the learning curve has fewer than 1 labelled image: count from 1")
    if len(points) < MIN_POINTS:
        return None
    n = np.array(sorted(points), dtype=np.float64)
    last = int(n[-1])
    later = np.array(labelled_images or range(last + 1, 2 * last + 1), dtype=np.float64)
    sign = -1.0 if higher_is_better else 1.0
    error = sign * np.array([points[int(one)] for one in n])
    scores = sign * _sample(n, error, later)
    tail = (1 - level) / 2
    limits = np.clip(np.quantile(scores, [tail, 0.5, 1 - tail], axis=0), *bounds)
    low, middle, high = (tuple(row.tolist()) for row in limits)
    return Forecast(tuple(int(one) for one in later), middle, low, high, level)


def _draw_log_uniform(
    rng: np.random.Generator, limits: tuple[float, float]
) -> Float[np.ndarray, " r"]:
    low, high = np.log(limits).tolist()
    return np.exp(rng.uniform(low, high, SAMPLES))


def _sample(
    n: Float[np.ndarray, " m"], error: Float[np.ndarray, " m"], later: Float[np.ndarray, " k"]
) -> Float[np.ndarray, "r k"]:
    """Return samples of later measured errors, given the measured errors.

    Parameters are drawn from their prior and weighted with their likelihood. The level ``a`` has a
    flat prior and is integrated out.
    """
    rng = np.random.default_rng(0)
    # the mean alone would be 0 for errors around 0
    typical = max(float(np.abs(error).mean()), float(np.ptp(error)), 1e-12)
    c = _draw_log_uniform(rng, EXPONENTS)
    deviation = typical * _draw_log_uniform(rng, DEVIATIONS)
    gain = GAIN * typical * np.abs(rng.normal(size=SAMPLES))
    last, every = n[-1], np.concatenate([n, later])
    # the power law, without its level: 0 at the last n, and -gain at twice that number
    curve = gain[:, None] * ((every / last) ** -c[:, None] - 1) / (1 - 2 ** -c[:, None])
    running_mean = last / np.maximum.outer(every, every)
    groups = np.array_split(np.arange(SAMPLES), len(TRAINING_NOISE))
    noises = [np.eye(len(every)) * noise**2 for noise in TRAINING_NOISE]
    parts = [
        _condition(error, curve[rows], deviation[rows], running_mean + noise)
        for rows, noise in zip(groups, noises, strict=True)
    ]
    log_weight = np.concatenate([part[0] for part in parts])
    mean = np.concatenate([part[1] for part in parts])
    std = np.concatenate([part[2] for part in parts])
    weight = np.exp(log_weight - log_weight.max())
    rows = rng.choice(SAMPLES, PATHS, p=weight / weight.sum())
    return mean[rows] + std[rows] * rng.standard_t(TAIL, size=(PATHS, 1))


def _condition(
    error: Float[np.ndarray, " m"],
    curve: Float[np.ndarray, "r t"],
    deviation: Float[np.ndarray, " r"],
    covariance: Float[np.ndarray, "t t"],
) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, "r k"], Float[np.ndarray, "r k"]]:
    """Return log likelihood, and mean and standard deviation of later errors, per sample.

    Args:
        error: measured errors.
        curve: power law at the measured numbers, then at the later ones.
        deviation: standard deviation that the covariance is multiplied with.
        covariance: covariance of all ``t = m + k`` errors for a deviation of 1.
    """
    m = len(error)
    root = np.linalg.cholesky(covariance[:m, :m])
    ones = solve_triangular(root, np.ones(m), lower=True)
    rest = solve_triangular(root, (error - curve[:, :m]).T, lower=True)
    cross = solve_triangular(root, covariance[:m, m:], lower=True)
    precision = ones @ ones
    level = ones @ rest / precision
    residual = rest - ones[:, None] * level
    squares = (residual**2).sum(axis=0)
    log_weight = -(m - 1) * np.log(deviation) - squares / (2 * deviation**2)
    log_weight -= np.log(np.diag(root)).sum() + np.log(precision) / 2
    mean = curve[:, m:] + level[:, None] + residual.T @ cross
    from_level = (1 - ones @ cross) ** 2 / precision
    variance = np.diag(covariance)[m:] - (cross**2).sum(axis=0) + from_level
    return log_weight, mean, deviation[:, None] * np.sqrt(variance)
