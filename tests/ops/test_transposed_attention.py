"""Three implementations of transposed attention: values, gradients and precision."""

import pytest
import torch
from tests.support import noise

from diffsight.ops import transposed_attention as module
from diffsight.ops.transposed_attention import transposed_attention


def make_inputs(pixels, width, maps, heads=3, dtype=torch.float64):
    shapes = (2, heads, pixels, width), (2, heads, pixels, width), (2, pixels, maps)
    return [noise(*s, seed=i).to(dtype).requires_grad_() for i, s in enumerate(shapes)]


@pytest.mark.parametrize(
    ("pixels", "width", "maps"), [(37, 8, 1), (64, 16, 50), (70, 64, 64), (70, 40, 150)]
)
@pytest.mark.parametrize("implementation", ["sdpa", "chunk"])
def test_all_implementations_have_equal_values_and_gradients(
    pixels, width, maps, implementation, monkeypatch
):
    monkeypatch.setattr(module, "CHUNK", 16)  # not a divisor of the number of pixels
    arguments = make_inputs(pixels, width, maps)
    weight = noise(2, pixels, maps, seed=9).double()
    expected = transposed_attention(*arguments, implementation="dense")
    result = transposed_attention(*arguments, implementation=implementation)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
    gradients = torch.autograd.grad((result * weight).sum(), arguments)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), arguments)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_the_sum_over_pixels_is_preserved():
    query, key, maps = make_inputs(50, 8, 4)
    received = transposed_attention(query, key, maps)
    torch.testing.assert_close(received.sum(dim=1), maps.sum(dim=1))


def test_the_result_equals_a_loop_over_queries_and_keys():
    query, key, maps = (x.detach() for x in make_inputs(5, 4, 2, heads=2))
    expected = torch.zeros(2, 5, 2, dtype=torch.float64)
    for b in range(2):
        for h in range(2):
            for i in range(5):
                weights = [(query[b, h, i] @ key[b, h, j] / 2).exp() for j in range(5)]
                for j in range(5):
                    expected[b, j] += weights[j] / sum(weights) * maps[b, i] / 2
    torch.testing.assert_close(transposed_attention(query, key, maps), expected)


def test_maps_get_a_gradient_if_queries_and_keys_are_frozen():
    query, key, maps = make_inputs(20, 8, 4)
    query, key = query.detach(), key.detach()
    (gradient,) = torch.autograd.grad(transposed_attention(query, key, maps).square().sum(), maps)
    dense = transposed_attention(query, key, maps, implementation="dense")
    torch.testing.assert_close(gradient, torch.autograd.grad(dense.square().sum(), maps)[0])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_lower_precision_stays_within_its_tolerance(dtype, tolerance):
    exact = make_inputs(100, 32, 40)
    rounded = [x.detach().to(dtype).requires_grad_() for x in exact]
    result, expected = transposed_attention(*rounded), transposed_attention(*exact)
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=tolerance)
    ours = torch.autograd.grad(result.float().square().sum(), rounded)
    theirs = torch.autograd.grad(expected.square().sum(), exact)
    for a, b in zip(ours, theirs, strict=True):
        assert float((a.double() - b).abs().max() / b.abs().max()) < tolerance


def test_the_result_has_the_dtype_of_the_maps():
    query, key, maps = make_inputs(30, 8, 4)
    result = transposed_attention(query.bfloat16(), key.bfloat16(), maps.float())
    assert result.dtype == torch.float32


def test_transposed_attention_runs_without_gradients_and_in_inference_mode():
    arguments = make_inputs(30, 8, 4)
    expected = transposed_attention(*arguments, implementation="dense").detach()
    with torch.no_grad():
        torch.testing.assert_close(transposed_attention(*arguments), expected)
    with torch.inference_mode():
        result = transposed_attention(*(x.clone() for x in arguments))
        torch.testing.assert_close(result, expected.clone())
