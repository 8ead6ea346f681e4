"""Bins of scalars: spacings, rare values, names, and labels that cannot be fitted."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import noise

from diffsight.codecs import ScalarBins
from diffsight.errors import InputError
from diffsight.outputs import expectation

SPACINGS = ("log", "log1p", "linear", "quantile")


def scalars(count=5000, seed=0):
    return torch.rand((count, 1), generator=torch.Generator().manual_seed(seed)) * 9 + 0.7


def as_map(values):
    return values.T[None, :, None]


def decoded(codec, soft):
    return expectation(soft.distribution(codec.num_classes), codec.centres[None])


@pytest.mark.parametrize("spacing", SPACINGS)
def test_decoded_scalars_are_exact_to_half_a_bin(spacing):
    values = scalars()
    codec = ScalarBins.fit(values, 40, spacing=spacing, limits=(0.7, 9.7))
    assert bool((codec.edges.diff() > 0).all())
    assert bool((codec.edges[:-1] < codec.values).all() & (codec.values < codec.edges[1:]).all())
    soft = codec.encode(as_map(values))
    back = decoded(codec, soft)[0, 0, 0]
    ids = soft.ids[0, 0, 0]
    error = (back - values[:, 0]).abs()
    widths = torch.maximum(codec.values - codec.edges[:-1], codec.edges[1:] - codec.values)
    assert bool((error <= widths[ids] + 1e-5).all())
    order = values[:, 0].argsort()
    assert bool((ids[order].diff() >= 0).all())


def test_edges_and_values_follow_the_spacing():
    values = scalars()
    log = ScalarBins.fit(values, 20, spacing="log", limits=(0.5, 8.0))
    torch.testing.assert_close(
        log.edges[1:] / log.edges[:-1], torch.full((20,), math.exp(math.log(16) / 20))
    )
    torch.testing.assert_close(log.values, (log.edges[:-1] * log.edges[1:]).sqrt())
    linear = ScalarBins.fit(values, 20, spacing="linear", limits=(0.0, 10.0))
    torch.testing.assert_close(linear.edges, torch.arange(21) * 0.5)
    one = ScalarBins.fit(values, 20, spacing="log1p", limits=(0.0, 1.0))
    position = torch.log(1 + 99 * one.edges) / math.log(100)
    torch.testing.assert_close(position, torch.linspace(0, 1, 21))
    skewed = scalars() ** 3
    counts = torch.bincount(
        ScalarBins.fit(skewed, 10, spacing="quantile").encode(as_map(skewed)).ids.flatten()
    )
    assert int(counts.min()) > 480
    assert int(counts.max()) < 520


@pytest.mark.parametrize("spacing", ["log1p", "linear", "quantile"])
@pytest.mark.parametrize("few", [(0.0, 1.0), (0.0, 1.0, 2.0, 3.0, 9.0)])
def test_every_value_gets_its_own_bin_if_there_are_as_many_bins(spacing, few):
    labels = torch.tensor(few).repeat(50)[:, None]
    codec = ScalarBins.fit(labels, len(few), spacing=spacing)
    soft = codec.encode(labels.T[None, :, None])
    assert torch.equal(codec.centres[soft.ids.flatten()], labels)


def test_outliers_do_not_widen_the_bins():
    values = torch.cat([scalars(10_000), torch.tensor([[1e6], [-1e6]])])
    codec = ScalarBins.fit(values, 10, spacing="linear")
    assert float(codec.edges[0]) > 0.6
    assert float(codec.edges[-1]) < 9.8
    ids = codec.encode(as_map(values[-2:])).ids.flatten()
    assert ids.tolist() == [9, 0]


def test_labels_that_are_mostly_zero_can_be_fitted():
    values = torch.zeros(100_000, 1)
    values[:50] = torch.arange(1, 51)[:, None] / 50
    codec = ScalarBins.fit(values, 20)
    assert bool((codec.edges.diff() > 0).all())
    assert float(codec.edges[-1]) == 1
    assert ScalarBins.fit(values, 20, spacing="quantile").num_classes == 20


@given(st.integers(2, 60), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_every_finite_scalar_has_a_bin(bins, seed):
    codec = ScalarBins.fit(scalars(200, seed), bins)
    probe = torch.cat([noise(50, seed=seed) * 100, codec.edges])[None, None, None]
    ids = codec.encode(probe).ids
    assert int(ids.min()) >= 0
    assert int(ids.max()) < bins


def test_a_state_dict_restores_the_bins():
    codec = ScalarBins.fit(scalars(), 12).with_statistics(scalars())
    again = ScalarBins(12)
    again.load_state_dict(codec.state_dict())
    label = as_map(scalars(50, seed=4))
    assert torch.equal(again.encode(label).ids, codec.encode(label).ids)
    assert again.num_classes == codec.num_classes
    assert again.names("m") == codec.names("m")


def test_bins_are_named_by_their_edges():
    codec = ScalarBins.of(torch.tensor([0.5, 1.0, 250.0]), torch.tensor([0.7, 10.0]))
    assert codec.names("m") == ["0.5 to 1 m", "1 to 250 m"]


@pytest.mark.parametrize(
    ("values", "bins", "options", "message"),
    [
        (torch.zeros(0, 1), 4, {}, "no pixel has a valid label"),
        (torch.tensor([[1.0], [math.nan]]), 4, {}, "NaN or infinite"),
        (torch.full((9, 1), 2.5), 4, {}, "every label is 2.5"),
        (torch.arange(9.0)[:, None], 20, {}, "at most 9"),
        (torch.arange(-1.0, 8)[:, None], 4, {"spacing": "log"}, "log needs positive labels"),
    ],
)
def test_unusable_labels_are_refused(values, bins, options, message):
    with pytest.raises(InputError, match=message):
        ScalarBins.fit(values, bins, **options)
