"""Three forms of one operation: equal values, equal gradients, and what they mean."""

import pytest
import torch
from tests.support import noise

from diffsight.ops import transposed_attention as module
from diffsight.ops.transposed_attention import transposed_attention


def inputs(pixels, width, maps, heads=3, dtype=torch.float64):
    shapes = (2, heads, pixels, width), (2, heads, pixels, width), (2, pixels, maps)
    return [noise(*s, seed=i).to(dtype).requires_grad_() for i, s in enumerate(shapes)]


@pytest.mark.parametrize(
    ("pixels", "width", "maps"), [(37, 8, 1), (64, 16, 50), (70, 64, 64), (70, 40, 150)]
)
@pytest.mark.parametrize("implementation", ["sdpa", "chunk"])
def test_values_and_gradients_are_those_of_the_dense_form(
    pixels, width, maps, implementation, monkeypatch
):
    monkeypatch.setattr(module, "CHUNK", 16)  # does not divide the pixels
    given = inputs(pixels, width, maps)
    weight = noise(2, pixels, maps, seed=9).double()
    expected = transposed_attention(*given, implementation="dense")
    found = transposed_attention(*given, implementation=implementation)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    wanted = torch.autograd.grad((expected * weight).sum(), given)
    for ours, theirs in zip(
        torch.autograd.grad((found * weight).sum(), given), wanted, strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_every_query_gives_away_all_of_its_map():
    query, key, maps = inputs(50, 8, 4)
    received = transposed_attention(query, key, maps)
    torch.testing.assert_close(received.sum(dim=1), maps.sum(dim=1))


def test_written_out():
    query, key, maps = (x.detach() for x in inputs(5, 4, 2, heads=2))
    expected = torch.zeros(2, 5, 2, dtype=torch.float64)
    for b in range(2):
        for h in range(2):
            for i in range(5):
                weights = [(query[b, h, i] @ key[b, h, j] / 2).exp() for j in range(5)]
                for j in range(5):
                    expected[b, j] += weights[j] / sum(weights) * maps[b, i] / 2
    torch.testing.assert_close(transposed_attention(query, key, maps), expected)


def test_frozen_queries_and_keys_cost_no_gradient():
    query, key, maps = inputs(20, 8, 4)
    query, key = query.detach(), key.detach()
    (found,) = torch.autograd.grad(transposed_attention(query, key, maps).square().sum(), maps)
    dense = transposed_attention(query, key, maps, implementation="dense")
    torch.testing.assert_close(found, torch.autograd.grad(dense.square().sum(), maps)[0])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_lower_precision(dtype, tolerance):
    exact = inputs(100, 32, 40)
    given = [x.detach().to(dtype).requires_grad_() for x in exact]
    found, expected = transposed_attention(*given), transposed_attention(*exact)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)
    ours = torch.autograd.grad(found.float().square().sum(), given)
    theirs = torch.autograd.grad(expected.square().sum(), exact)
    for a, b in zip(ours, theirs, strict=True):
        assert float((a.double() - b).abs().max() / b.abs().max()) < tolerance


def test_maps_keep_their_precision_beside_half_precision_queries():
    query, key, maps = inputs(30, 8, 4)
    found = transposed_attention(query.bfloat16(), key.bfloat16(), maps.float())
    assert found.dtype == torch.float32


def test_without_gradients_and_in_inference_mode():
    given = inputs(30, 8, 4)
    expected = transposed_attention(*given, implementation="dense").detach()
    with torch.no_grad():
        torch.testing.assert_close(transposed_attention(*given), expected)
    with torch.inference_mode():
        found = transposed_attention(*(x.clone() for x in given))
        torch.testing.assert_close(found, expected.clone())
