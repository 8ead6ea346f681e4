"""Statistics of the repeats of a benchmark: an interval of their mean, and their own spread.

The few-shot paper's figures after the "±" are spreads of runs (1.96 standard deviations); as an
interval of a mean of 100 runs they would ask for runs that differ by half of their mean and more.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

FEWEST_FOR_PERCENTILES = 40


@dataclass(frozen=True)
class Summary:
    """Statistics of one measure; None where repeats are too few.

    Attributes:
        repeats: their number.
        mean: of them.
        ci95: half the width of the 95 % interval of the mean, by Student's t.
        spread: 1.96 standard deviations: about 95 % of runs are that near to the mean.
        percentiles: 2.5 and 97.5, from 40 repeats on.
    """

    repeats: int
    mean: float
    ci95: float | None
    spread: float | None
    percentiles: tuple[float, float] | None


@dataclass(frozen=True)
class Difference:
    """A paired difference of two methods; one repeat has no interval.

    Attributes:
        repeats: number of pairs.
        mean: of the differences, first minus second.
        interval: of their mean, 95 %, by Student's t: a bootstrap of five pairs holds 82 %.
    """

    repeats: int
    mean: float
    interval: tuple[float, float] | None


def summarise(values: Float[np.ndarray, " r"]) -> Summary:
    """Return mean, interval and spread of the repeats; standard deviations divide by r - 1.

    Raises:
        ValueError: without repeats, or if one is not finite.
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
    if repeats >= FEWEST_FOR_PERCENTILES:
        low, high = np.percentile(values, [2.5, 97.5])
        percentiles = float(low), float(high)
    half = float(stats.t.ppf(0.975, repeats - 1)) * deviation / repeats**0.5
    return Summary(repeats, mean, half, 1.96 * deviation, percentiles)


def paired_difference(
    first: Float[np.ndarray, " r"], second: Float[np.ndarray, " s"]
) -> Difference:
    """Return the mean of ``first - second`` with its interval.

    Row i of both must come from the same repeat (the same training images).

    Args:
        first: one method's repeats.
        second: the other's, in the same order.

    Raises:
        ValueError: if the lengths differ, without repeats, or if one is not finite.
    """
    if len(first) != len(second):
        raise ValueError(
            f"{len(first)} and {len(second)} repeats are no pairs: give the common ones"
        )
    summary = summarise(first.astype(np.float64) - second.astype(np.float64))
    mean, half = summary.mean, summary.ci95
    interval = None if half is None else (mean - half, mean + half)
    return Difference(summary.repeats, mean, interval)
