"""What a codec encodes it can give back, and it is the same after a file."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import noise
from torch.nn import functional

from diffsight.codecs import Discrete, ScalarBins, VectorWords, expectation, from_state
from diffsight.errors import InputError

SPACINGS = ("log", "log1p", "linear", "quantile")


def scalars(count=5000, seed=0):
    return torch.rand((count, 1), generator=torch.Generator().manual_seed(seed)) * 9 + 0.7


def normals(count=4000, seed=0):
    return functional.normalize(noise(count, 3, seed=seed) * torch.tensor([1, 0.5, 2.0]), dim=1)


def as_map(values):
    return values.T[None, :, None]


def decoded(codec, codes):
    return expectation(codes.distribution(codec.num_classes), codec.centres[None])


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_scalar_comes_back_to_half_a_bin(spacing):
    values = scalars()
    codec = ScalarBins.fit(values, 40, spacing=spacing, limits=(0.7, 9.7))
    assert bool((codec.edges.diff() > 0).all())
    assert bool((codec.edges[:-1] < codec.values).all() & (codec.values < codec.edges[1:]).all())
    codes = codec.encode(as_map(values))
    back = decoded(codec, codes)[0, 0, 0]
    ids = codes.ids[0, 0, 0]
    error = (back - values[:, 0]).abs()
    widths = torch.maximum(codec.values - codec.edges[:-1], codec.edges[1:] - codec.values)
    assert bool((error <= widths[ids] + 1e-5).all())
    order = values[:, 0].argsort()
    assert bool((ids[order].diff() >= 0).all())


def test_spacings():
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
def test_as_few_values_as_bins_come_back_exactly(spacing, few):
    labels = torch.tensor(few).repeat(50)[:, None]
    codec = ScalarBins.fit(labels, len(few), spacing=spacing)
    codes = codec.encode(labels.T[None, :, None])
    assert torch.equal(codec.centres[codes.ids.flatten()], labels)


def test_outliers_do_not_stretch_the_bins():
    values = torch.cat([scalars(10_000), torch.tensor([[1e6], [-1e6]])])
    codec = ScalarBins.fit(values, 10, spacing="linear")
    assert float(codec.edges[0]) > 0.6
    assert float(codec.edges[-1]) < 9.8
    ids = codec.encode(as_map(values[-2:])).ids.flatten()
    assert ids.tolist() == [9, 0]


def test_mostly_zeros():
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


def test_directions():
    values = normals()
    codec = VectorWords.fit(values, 40, spherical=True)
    torch.testing.assert_close(codec.words.norm(dim=1), torch.ones(40))
    assert len(codec.simplices) == 2 * 40 - 4
    back = decoded(codec, codec.encode(as_map(values)))[0, :, 0].T
    nearest = (values @ codec.words.T).max(dim=1).values
    torch.testing.assert_close((back * values).sum(dim=1), nearest)
    angles = torch.rad2deg(nearest.clamp(max=1).acos())
    assert float(angles.mean()) < 15


def test_mixed_words_give_directions_back():
    values = normals()
    codec = VectorWords.fit(values, 40, spherical=True, soft=True)
    codes = codec.encode(as_map(values))
    assert codes.ids.shape == codes.weights.shape == (1, 3, 1, 4000)
    torch.testing.assert_close(codes.weights.sum(dim=1), torch.ones(1, 1, 4000))
    assert float(codes.weights.min()) >= 0
    back = functional.normalize(decoded(codec, codes)[0, :, 0], dim=0).T
    assert float((back * values).sum(dim=1).min()) > 1 - 1e-5


@pytest.mark.parametrize("cap", [30, 60, 90])
def test_words_on_one_side_of_the_sphere_mix_with_their_neighbours(cap):
    """A camera sees surfaces that face it: what closes the words' hull behind them is no triangle
    of directions.
    """
    generator = torch.Generator().manual_seed(0)
    height = 1 - torch.rand(6000, generator=generator) * (1 - math.cos(math.radians(cap)))
    turn = torch.rand(6000, generator=generator) * 2 * math.pi
    flat = (1 - height.square()).clamp(min=0).sqrt()
    values = torch.stack([flat * turn.cos(), flat * turn.sin(), -height], dim=1)
    codec = VectorWords.fit(values, 40, spherical=True, soft=True)
    codes = codec.encode(as_map(values))
    mixed = codec.words[codes.ids[0, :, 0]]  # s m d
    angles = torch.rad2deg((mixed * values).sum(dim=-1).clamp(-1, 1).acos())
    nearest = torch.rad2deg((values @ codec.words.T).amax(dim=1).clamp(-1, 1).acos())
    far = (codes.weights[0, :, 0] * angles).sum(dim=0).mean()
    assert float(far) < 2 * float(nearest.mean())
    inside = codes.weights[0, :, 0].amax(dim=0) < 1
    back = functional.normalize(decoded(codec, codes)[0, :, 0].T, dim=1)
    torch.testing.assert_close(back[inside], values[inside], rtol=0, atol=1e-4)
    assert float(inside.float().mean()) > 0.7


def test_words_along_the_axes():
    """Triangles through the origin have no shares."""
    axes = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, -1]])
    codec = VectorWords.fit(axes.repeat(20, 1), 5, spherical=True, soft=True)
    values = functional.normalize(torch.tensor([[0.2, 0.3, -1.0], [-0.5, 0.1, -0.2]]), dim=1)
    codes = codec.encode(as_map(values))
    back = functional.normalize(decoded(codec, codes)[0, :, 0].T, dim=1)
    torch.testing.assert_close(back, values, rtol=0, atol=1e-5)


@pytest.mark.parametrize("directions", [2, 3, 4])
def test_few_directions_are_their_nearest_words(directions):
    """Floor and walls: no triangle covers a side of the sphere."""
    axes = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, -1, 0], [-1, 0, 0]])[:directions]
    codec = VectorWords.fit(axes.repeat(30, 1), directions, spherical=True, soft=True)
    codes = codec.encode(axes.T[None, :, None])
    assert codes.ids.shape[1] == 1
    assert torch.equal(codec.words[codes.ids.flatten()], axes)
    again = from_state("vector", *codec.state())
    assert torch.equal(again.encode(axes.T[None, :, None]).ids, codes.ids)


def test_mixed_words_of_a_plane():
    values = noise(3000, 2)
    codec = VectorWords.fit(values, 30, soft=True)
    codes = codec.encode(as_map(values))
    back = decoded(codec, codes)[0, :, 0].T
    inside = codes.weights[0, :, 0].max(dim=0).values < 1
    assert float(inside.float().mean()) > 0.8
    torch.testing.assert_close(back[inside], values[inside], atol=1e-4, rtol=0)
    nearest = codec.words[torch.cdist(values, codec.words).argmin(dim=1)]
    torch.testing.assert_close(back[~inside], nearest[~inside], atol=1e-4, rtol=0)


def test_channels_that_all_but_follow_from_each_other():
    """Shares that sum to 1 but for their rounding: some of their simplices are nearly flat."""
    values = (2 * noise(3000, 3)).softmax(dim=1)
    codec = VectorWords.fit(values, 40, soft=True)
    back = decoded(codec, codec.encode(as_map(values)))[0, :, 0].T
    nearest = torch.cdist(values, codec.words).min(dim=1).values
    gaps = (back - values).norm(dim=1)
    assert bool((gaps <= nearest + 1e-4).all())
    assert float(gaps.mean()) < float(nearest.mean()) / 2


@pytest.mark.parametrize("soft", [False, True])
def test_far_from_the_origin_words_are_as_good(soft):
    values = noise(4000, 2) + 5000
    codec = VectorWords.fit(values, 40, soft=soft)
    near = VectorWords.fit(values - 5000, 40, soft=soft)
    gaps = [
        torch.cdist(v.double(), c.words.double()).min(dim=1).values.mean()
        for v, c in ((values, codec), (values - 5000, near))
    ]
    assert float(gaps[0]) == pytest.approx(float(gaps[1]), rel=0.05)
    ids = VectorWords(codec.words, codec.simplices, False).encode(as_map(values)).ids.flatten()
    exact = torch.cdist(values.double(), codec.words.double())
    found = exact[torch.arange(4000), ids]
    torch.testing.assert_close(found, exact.min(dim=1).values, atol=2e-3, rtol=0)


def test_words_are_local_means():
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 10], [10, 10]])
    values = (centres[:, None] + 0.1 * noise(4, 50, 2)).flatten(0, 1)
    words = VectorWords.fit(values, 4, seed=3).words
    gaps = torch.cdist(centres, words).min(dim=1).values
    assert float(gaps.max()) < 0.1
    assert torch.equal(words, VectorWords.fit(values, 4, seed=3).words)


def test_files():
    for codec in (
        Discrete(7),
        ScalarBins.fit(scalars(), 12),
        VectorWords.fit(normals(), 12, spherical=True, soft=True),
    ):
        again = from_state(codec.kind, *codec.state())
        label = torch.randint(0, 7, (1, 3 if codec.kind == "vector" else 1, 5, 6)).float() + 0.5
        ours, theirs = codec.encode(label), again.encode(label)
        assert torch.equal(ours.ids, theirs.ids)
        assert torch.equal(ours.weights, theirs.weights)
        assert again.num_classes == codec.num_classes
    with pytest.raises(InputError, match="unknown kind of labels 'words'"):
        from_state("words", {}, {})
    with pytest.raises(InputError, match=r"not whole: .*simplices"):
        from_state("vector", {"spherical": True}, {"words": torch.zeros(4, 3)})


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        (lambda: ScalarBins.fit(torch.zeros(0, 1), 4), "no valid label pixel"),
        (lambda: ScalarBins.fit(torch.tensor([[1.0], [math.nan]]), 4), "NaN or infinity"),
        (lambda: ScalarBins.fit(torch.full((9, 1), 2.5), 4), "every label is 2.5"),
        (lambda: ScalarBins.fit(torch.arange(9.0)[:, None], 20), "at most 9"),
        (lambda: ScalarBins.fit(torch.arange(-1.0, 8)[:, None], 4, spacing="log"), "no logarithm"),
        (lambda: VectorWords.fit(torch.zeros(9, 3), 4, spherical=True), "length 0"),
        (lambda: VectorWords.fit(torch.zeros(9, 2), 4), "every label is 0, 0"),
        (lambda: VectorWords.fit(torch.arange(9.0)[:, None].repeat(1, 2), 4), "do not fill"),
        (lambda: VectorWords.fit(torch.randn(9, 2), 2), "2 words for .* 2 channels: .* least 3"),
    ],
)
def test_labels_that_cannot_be_fitted(fit, message):
    with pytest.raises(InputError, match=message):
        fit()
