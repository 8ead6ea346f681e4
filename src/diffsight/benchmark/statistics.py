"""Statistics over the repeats of a benchmark: the interval of their mean, and their spread.

The few-shot paper's figures after the "±" are spreads of runs (1.96 standard deviations). If they
were intervals of a mean of 100 runs, the runs would differ by half of their mean or more.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

MIN_REPEATS_FOR_PERCENTILES = 40


@dataclass(frozen=True)
class Summary:
    """Statistics of a score over repeats; None for those that need more repeats.

    Attributes:
        repeats: number of repeats.
        mean: mean score.
        ci95: half the width of the 95 % interval of the mean, by Student's t.
        spread: 1.96 standard deviations; about 95 % of the runs are within this distance of the
            mean.
        percentiles: percentiles 2.5 and 97.5, from 40 repeats on.
    """

    repeats: int
    mean: float
    ci95: float | None
    spread: float | None
    percentiles: tuple[float, float] | None


@dataclass(frozen=True)
class Difference:
    """The paired difference of two methods.

    Attributes:
        repeats: number of pairs.
        mean: mean of the differences, first minus second.
        interval: 95 % interval of the mean by Student's t; None for one pair. A bootstrap interval
            of five pairs would contain the mean in 82 % of cases only.
    """

    repeats: int
    mean: float
    interval: tuple[float, float] | None


def summarise(values: Float[np.ndarray, " r"]) -> Summary:
    """Return the statistics of the scores of repeats; standard deviations divide by r - 1.

    Raises:
        ValueError: if there are no repeats, or if a score is not finite.
    """
    if len(values) == 0:
        raise ValueError("no repeats: give at least one")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"repeat {bad[0]} is {values[bad[0]]}: run it again, or leave it out")
    repeats, mean = len(values), float(values.mean())
    if repeats == 1:
        return Summary(1, mean, None, None, None)
    deviation = float(values.std(ddof=1))
    percentiles = None
    if repeats >= MIN_REPEATS_FOR_PERCENTILES:
        low, high = np.percentile(values, [2.5, 97.5])
        percentiles = float(low), float(high)
    half = float(stats.t.ppf(0.975, repeats - 1)) * deviation / repeats**0.5
    return Summary(repeats, mean, half, 1.96 * deviation, percentiles)


def paired_difference(
    first: Float[np.ndarray, " r"], second: Float[np.ndarray, " s"]
) -> Difference:
    """Return the mean of ``first - second`` and its interval.

    Args:
        first: scores of one method.
        second: scores of the other method; element i must be from the same repeat (with the same
            training images) as element i of ``first``.

    Raises:
        ValueError: if the lengths differ, if there are no repeats, or if a score is not finite.
    """
    if len(first) != len(second):
        raise ValueError(
            f"{len(first)} and {len(second)} repeats are no pairs: give the common ones"
        )
    summary = summarise(first.astype(np.float64) - second.astype(np.float64))
    mean, half = summary.mean, summary.ci95
    interval = None if half is None else (mean - half, mean + half)
    return Difference(summary.repeats, mean, interval)
