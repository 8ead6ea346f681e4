"""Intervals against textbook figures."""

import math

import numpy as np
import pytest

from diffsight.benchmark.statistics import Summary, paired_difference, summarise


def test_five_repeats() -> None:
    """Mean 3, s = sqrt(2.5), and 2.776445 from a table of Student's t with 4 degrees."""
    summary = summarise(np.array([5.0, 1.0, 4.0, 2.0, 3.0]))
    assert (summary.repeats, summary.mean, summary.percentiles) == (5, 3.0, None)
    assert summary.ci95 == pytest.approx(2.776445 * math.sqrt(2.5 / 5), rel=1e-6)
    assert summary.spread == pytest.approx(1.96 * math.sqrt(2.5), rel=1e-12)


def test_two_repeats_are_wide_and_one_has_no_interval() -> None:
    assert summarise(np.array([1.0, 3.0])).ci95 == pytest.approx(12.706205, rel=1e-6)
    assert summarise(np.array([0.25])) == Summary(1, 0.25, None, None, None)


def test_equal_repeats() -> None:
    assert summarise(np.full(3, 2.0)) == Summary(3, 2.0, 0.0, 0.0, None)


def test_percentiles_from_forty_repeats_on() -> None:
    assert summarise(np.arange(39.0)).percentiles is None
    assert summarise(np.arange(40.0)).percentiles == pytest.approx((0.975, 38.025))
    shuffled = np.random.default_rng(0).permutation(201.0 * np.arange(201) / 201)
    assert summarise(shuffled).percentiles == pytest.approx((5.0, 195.0))


def test_the_interval_of_a_mean_holds_it_in_95_of_100_cases() -> None:
    draws = np.random.default_rng(1).normal(2.0, 3.0, (2000, 5))
    held = [abs(s.mean - 2.0) < s.ci95 for s in map(summarise, draws) if s.ci95 is not None]
    assert len(held) == 2000
    assert 0.935 < np.mean(held) < 0.965


def test_pairs_remove_what_training_images_have_in_common() -> None:
    generator = np.random.default_rng(2)
    shared = generator.normal(0, 5, 30)
    first = shared + generator.normal(1, 0.5, 30)
    found = paired_difference(first, shared)
    assert found.repeats == 30
    assert found.mean == pytest.approx(float((first - shared).mean()))
    assert found.interval is not None
    low, high = found.interval
    half = 2.0452296 * float((first - shared).std(ddof=1) / math.sqrt(30))  # from a table
    assert (low, high) == pytest.approx((found.mean - half, found.mean + half), rel=1e-6)
    alone = summarise(first).ci95
    assert alone is not None
    assert high - low < alone / 4


def test_pairs_that_do_not_differ_are_told_apart_in_5_of_100_cases() -> None:
    draws = np.random.default_rng(3).normal(size=(2000, 2, 5))
    found = [paired_difference(first, second).interval for first, second in draws]
    apart = [low > 0 or high < 0 for low, high in filter(None, found)]
    assert len(apart) == 2000
    assert 0.035 < np.mean(apart) < 0.065


def test_a_difference_turns_round() -> None:
    first, second = np.random.default_rng(3).normal(size=(2, 12))
    found, turned = paired_difference(first, second), paired_difference(second, first)
    assert found.interval is not None
    assert turned.interval == pytest.approx((-found.interval[1], -found.interval[0]))


def test_one_pair_has_no_interval() -> None:
    found = paired_difference(np.array([3.0]), np.array([1.0]))
    assert (found.mean, found.interval) == (2.0, None)


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="repeat 1 is nan"):
        summarise(np.array([1.0, math.nan]))
    with pytest.raises(ValueError, match="no repeats"):
        summarise(np.array([]))
    with pytest.raises(ValueError, match="3 and 2 repeats are no pairs"):
        paired_difference(np.zeros(3), np.zeros(2))
