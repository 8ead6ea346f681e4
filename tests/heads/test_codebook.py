"""Class values of an image: how many numbers learn, where they start, what mixes them."""

import pytest
import torch
from tests.support import noise

from diffsight.errors import InputError
from diffsight.heads import Codebook


def build(size, n=5, d=2, features=8):
    torch.manual_seed(0)
    centres = torch.arange(n * d, dtype=torch.float32).reshape(n, d)
    return Codebook(centres, torch.tensor([1.0, 100.0][:d]), size=size, features=features)


@pytest.mark.parametrize(
    ("n", "d", "tables", "mix"),
    [(20, 1, 200, 7680), (20, 3, 600, 7680), (40, 5, 2000, 7680), (50, 3, 1500, 7680)],
)
def test_parameters_of_the_paper(n, d, tables, mix):
    """Spec 1.9: K N D and D' K."""
    codebook = Codebook(torch.zeros(n, d), torch.ones(d), features=768)
    counts = {name: p.numel() for name, p in codebook.named_parameters()}
    assert counts == {"tables": tables, "mix.weight": mix}


def test_a_fixed_mapping_learns_nothing():
    codebook = build(0)
    assert not list(codebook.parameters())
    assert torch.equal(codebook(None, 3), codebook.centres.expand(3, -1, -1))


def test_every_table_starts_near_the_centres_and_differs():
    codebook = build(10)
    tables = codebook.tables.detach()
    gap = (tables * codebook.scale - codebook.centres) / codebook.scale
    assert 0.005 < float(gap.std()) < 0.02
    assert float(torch.pdist(tables.flatten(1)).min()) > 0
    values = codebook(noise(3, 8), 3)
    torch.testing.assert_close(
        values / codebook.scale,
        (codebook.centres / codebook.scale).expand(3, -1, -1),
        atol=0.05,
        rtol=0,
    )


def test_features_mix_the_tables():
    codebook = build(3)
    features = noise(2, 8)
    share = (features @ codebook.mix.weight.T).softmax(dim=1)
    expected = sum(share[:, k, None, None] * codebook.tables[k] for k in range(3)) * codebook.scale
    torch.testing.assert_close(codebook(features, 2), expected)
    one = build(1)
    torch.testing.assert_close(one(None, 2)[1], one.tables[0] * one.scale)


def test_the_tables_part():
    codebook = build(4)
    features = torch.nn.functional.normalize(noise(6, 8), dim=1) * 8**0.5
    teacher = build(4)
    with torch.no_grad():
        teacher.tables.copy_(noise(4, 5, 2, seed=1))
        teacher.mix.weight.copy_(noise(4, 8, seed=2))
        target = teacher(features, 6)
    optimiser = torch.optim.Adam(codebook.parameters(), 0.05)
    for _ in range(500):
        optimiser.zero_grad()
        loss = ((codebook(features, 6) - target) / codebook.scale).square().mean()
        loss.backward()
        optimiser.step()
    one = target.mean(dim=0)
    assert float(loss.detach()) < 0.5 * float(((target - one) / codebook.scale).square().mean())


def test_features_are_needed():
    with pytest.raises(InputError, match="10 tables needs image features"):
        build(10, features=None)
