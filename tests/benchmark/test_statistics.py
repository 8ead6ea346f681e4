"""Statistics of repeats, compared with figures from textbooks."""

import math

import numpy as np
import pytest

from diffsight.benchmark.statistics import Summary, paired_difference, summarise


def test_the_confidence_interval_follows_students_t_distribution() -> None:
    """Five repeats: mean 3, s = sqrt(2.5); t = 2.776445 from a table for 4 degrees of freedom."""
    summary = summarise(np.array([5.0, 1.0, 4.0, 2.0, 3.0]))
    assert (summary.repeats, summary.mean, summary.percentiles) == (5, 3.0, None)
    assert summary.ci95 == pytest.approx(2.776445 * math.sqrt(2.5 / 5), rel=1e-6)
    assert summary.spread == pytest.approx(1.96 * math.sqrt(2.5), rel=1e-12)


def test_a_single_repeat_has_no_interval() -> None:
    assert summarise(np.array([1.0, 3.0])).ci95 == pytest.approx(12.706205, rel=1e-6)
    assert summarise(np.array([0.25])) == Summary(1, 0.25, None, None, None)


def test_equal_repeats_have_an_interval_of_width_zero() -> None:
    assert summarise(np.full(3, 2.0)) == Summary(3, 2.0, 0.0, 0.0, None)


def test_percentiles_are_given_from_forty_repeats_on() -> None:
    assert summarise(np.arange(39.0)).percentiles is None
    assert summarise(np.arange(40.0)).percentiles == pytest.approx((0.975, 38.025))
    shuffled = np.random.default_rng(0).permutation(201.0 * np.arange(201) / 201)
    assert summarise(shuffled).percentiles == pytest.approx((5.0, 195.0))


def test_intervals_contain_the_true_mean_in_95_percent_of_cases() -> None:
    draws = np.random.default_rng(1).normal(2.0, 3.0, (2000, 5))
    contains = [abs(s.mean - 2.0) < s.ci95 for s in map(summarise, draws) if s.ci95 is not None]
    assert len(contains) == 2000
    assert 0.935 < np.mean(contains) < 0.965


def test_paired_differences_cancel_what_repeats_have_in_common() -> None:
    generator = np.random.default_rng(2)
    common = generator.normal(0, 5, 30)
    first = common + generator.normal(1, 0.5, 30)
    difference = paired_difference(first, common)
    assert difference.repeats == 30
    assert difference.mean == pytest.approx(float((first - common).mean()))
    assert difference.interval is not None
    low, high = difference.interval
    half = 2.0452296 * float((first - common).std(ddof=1) / math.sqrt(30))  # from a table
    expected = (difference.mean - half, difference.mean + half)
    assert (low, high) == pytest.approx(expected, rel=1e-6)
    alone = summarise(first).ci95
    assert alone is not None
    assert high - low < alone / 4


def test_equal_methods_differ_significantly_in_5_percent_of_cases() -> None:
    draws = np.random.default_rng(3).normal(size=(2000, 2, 5))
    intervals = [paired_difference(first, second).interval for first, second in draws]
    is_different = [low > 0 or high < 0 for low, high in filter(None, intervals)]
    assert len(is_different) == 2000
    assert 0.035 < np.mean(is_different) < 0.065


def test_swapping_the_methods_changes_the_sign_of_the_interval() -> None:
    first, second = np.random.default_rng(3).normal(size=(2, 12))
    forward, backward = paired_difference(first, second), paired_difference(second, first)
    assert forward.interval is not None
    assert backward.interval == pytest.approx((-forward.interval[1], -forward.interval[0]))


def test_one_pair_has_no_interval() -> None:
    difference = paired_difference(np.array([3.0]), np.array([1.0]))
    assert (difference.mean, difference.interval) == (2.0, None)


def test_scores_that_are_not_finite_or_not_paired_are_refused() -> None:
    with pytest.raises(ValueError, match="repeat 1 is nan"):
        summarise(np.array([1.0, math.nan]))
    with pytest.raises(ValueError, match="no repeats"):
        summarise(np.array([]))
    with pytest.raises(ValueError, match="3 and 2 repeats are no pairs"):
        paired_difference(np.zeros(3), np.zeros(2))
