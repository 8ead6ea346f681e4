"""Codebook: number of parameters, initial tables, and their mixture by image features."""

import pytest
import torch
from tests.support import noise

from diffsight.codecs import ScalarBins, VectorCodebook
from diffsight.errors import InputError
from diffsight.heads import Codebook


def make_codec(n=5, d=2):
    centres = torch.arange(n * d, dtype=torch.float32).reshape(n, d)
    codec = VectorCodebook.of(centres)
    codec.label_mean, codec.label_std = torch.zeros(d), torch.tensor([1.0, 100.0, 7.0])[:d]
    return codec


def build(size, features: int | None = 8):
    torch.manual_seed(0)
    codec = make_codec()
    return Codebook(codec, size=size, features=features), codec


@pytest.mark.parametrize(
    ("n", "d", "tables", "mix"),
    [(20, 1, 200, 7680), (20, 3, 600, 7680), (50, 3, 1500, 7680)],
)
def test_the_number_of_parameters_is_that_of_the_paper(n, d, tables, mix):
    """K tables of N values with D channels, and a linear layer from D' features to K weights."""
    codebook = Codebook(make_codec(n, d), features=768)
    counts = {name: p.numel() for name, p in codebook.named_parameters()}
    assert counts == {"tables": tables, "mix.weight": mix}


def test_a_codebook_of_size_zero_has_no_parameters_and_returns_the_centres():
    codebook, codec = build(0)
    assert not list(codebook.parameters())
    assert torch.equal(codebook(None, 3), codec.centres.expand(3, -1, -1))


def test_the_state_dict_of_a_codebook_does_not_contain_the_codec():
    codebook, codec = build(3)
    assert set(codebook.state_dict()) == {"tables", "mix.weight"}
    codec.label_std = codec.label_std * 2  # as if the codec is loaded later than the codebook
    torch.testing.assert_close(codebook.scaled_tables, codebook.tables * codec.label_std)


def test_initial_tables_are_the_centres_with_different_noise():
    codebook, codec = build(10)
    tables, std = codebook.tables.detach(), codec.label_std
    gap = (tables * std - codec.centres) / std
    assert 0.005 < float(gap.std()) < 0.02
    assert float(torch.pdist(tables.flatten(1)).min()) > 0
    values = codebook(noise(3, 8), 3)
    expected = (codec.centres / std).expand(3, -1, -1)
    torch.testing.assert_close(values / std, expected, atol=0.05, rtol=0)


def test_the_values_of_an_image_are_tables_mixed_by_its_features():
    codebook, codec = build(3)
    features = noise(2, 8)
    weights = (features @ codebook.mix.weight.T).softmax(dim=1)
    torch.testing.assert_close(codebook.weights(features), weights)
    mixed = sum(weights[:, k, None, None] * codebook.tables[k] for k in range(3))
    torch.testing.assert_close(codebook(features, 2), mixed * codec.label_std)
    one, codec = build(1)
    torch.testing.assert_close(one(None, 2)[1], one.tables[0] * codec.label_std)


def test_tables_diverge_in_training():
    (codebook, codec), (teacher, _) = build(4), build(4)
    features = torch.nn.functional.normalize(noise(6, 8), dim=1) * 8**0.5
    with torch.no_grad():
        teacher.tables.copy_(noise(4, 5, 2, seed=1))
        teacher.mix.weight.copy_(noise(4, 8, seed=2))
        target = teacher(features, 6)
    optimiser = torch.optim.Adam(codebook.parameters(), 0.05)
    for _ in range(500):
        optimiser.zero_grad()
        loss = ((codebook(features, 6) - target) / codec.label_std).square().mean()
        loss.backward()
        optimiser.step()
    mean = target.mean(dim=0)
    assert float(loss.detach()) < 0.5 * float(((target - mean) / codec.label_std).square().mean())


def test_values_keep_32_bits_in_mixed_precision():
    """In bfloat16, neighbouring values near 300 K are 2 K apart."""
    labels = torch.linspace(282, 316, 200)[:, None]
    codec = ScalarBins.fit(labels, 20, spacing="linear").with_statistics(labels)
    codebook = Codebook(codec, size=3, features=4)
    features = noise(2, 4)
    values = codebook(features, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codebook(features, 2), values)


def test_several_tables_without_image_features_are_refused():
    with pytest.raises(InputError, match="10 tables needs image features"):
        build(10, features=None)
