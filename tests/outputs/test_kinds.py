"""Kinds of output: averaging, mirroring and resizing against direct computation."""

import pytest
import torch
from tests.support import noise
from torch import Tensor

from diffsight.outputs import Classes, Distribution, Moments, Output, Values, expectation


def distribution(batch: int = 2, n: int = 5, d: int = 3, origin: float = 0.0) -> Distribution:
    centres = noise(n, d, seed=3) + origin
    probability = (2 * noise(batch, n, 4, 6)).softmax(dim=1)
    return Distribution(probability, expectation(probability, centres[None]), centres)


def reference_moments(output: Distribution) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, computed in float64."""
    p, x = output.probability.double(), output.centres.double()
    mean = torch.einsum("bnhw,nd->bdhw", p, x)
    gaps = (x[None, :, :, None, None] - mean[:, None]).square()
    return mean, (p[:, :, None] * gaps).sum(dim=1).mean(dim=1).sqrt()


OUTPUTS = (
    Values(noise(2, 3, 4, 6)),
    Values(noise(2, 3, 4, 6), noise(2, 3, 4, 6, seed=1).abs()),
    Classes(noise(2, 5, 4, 6)),
    Classes(noise(2, 5, 4, 6).softmax(dim=1), "probabilities"),
    distribution(),
    distribution().reduced(),
)


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: type(output).__name__)
def test_every_kind_can_be_rebuilt_from_its_stack(output: Output) -> None:
    assert output.hw == (4, 6)
    assert output.stack.dtype == torch.float32
    again = output.with_stack(output.stack)
    assert type(again) is type(output)
    assert torch.equal(again.stack, output.stack)
    larger = output.with_stack(torch.nn.functional.interpolate(output.stack, scale_factor=2))
    assert larger.hw == (8, 12)
    assert torch.equal(output.cropped(3, 2).stack, output.stack[..., :3, :2])
    assert torch.equal(output.row(1).stack, output.stack[1:])
    assert torch.equal(output.mirrored().stack, output.stack.flip(-1))
    assert output.to("meta").stack.is_meta
    parts = [output.row(i).stack for i in range(2)]
    assert torch.equal(torch.cat(parts), output.stack)


def test_normalised_logits_are_probabilities_in_float32() -> None:
    logits = noise(2, 5, 4, 6)
    output = Classes(logits).normalised()
    assert output == output.normalised() or torch.equal(output.stack, output.normalised().stack)
    torch.testing.assert_close(output.stack, logits.softmax(dim=1))
    assert output.with_stack(output.stack).space == "probabilities"
    half = Classes(logits.half())
    assert half.stack.dtype == half.probabilities.dtype == torch.float32


def test_only_outputs_of_values_store_the_standard_deviation_over_views() -> None:
    std = noise(2, 3, 4, 6).abs()
    assert torch.equal(Values(noise(2, 3, 4, 6)).with_std(std).std, std)
    for output in OUTPUTS[2:]:
        assert output.with_std(std) is output


@pytest.mark.parametrize("origin", [0.0, 300.0])
def test_reduced_moments_are_those_of_the_distribution(origin: float) -> None:
    output = distribution(origin=origin)
    reduced = output.reduced()
    mean, std = reference_moments(output)
    torch.testing.assert_close(
        (reduced.mean + reduced.origin[:, None, None]).double(), mean, rtol=1e-6, atol=1e-5
    )
    torch.testing.assert_close(reduced.std.double(), std, rtol=1e-4, atol=1e-5)
    assert torch.equal(reduced.value, output.value)


def test_averaged_moments_are_the_moments_of_the_averaged_distribution() -> None:
    """Averaging is linear, so distributions may be reduced to moments before it."""
    first, second = distribution(), distribution()
    second = second.with_stack(second.stack.roll(1, dims=-1))
    averaged = first.with_stack((first.stack + second.stack) / 2).reduced()
    late = first.reduced().with_stack((first.reduced().stack + second.reduced().stack) / 2)
    torch.testing.assert_close(late.stack, averaged.stack, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(late.std, averaged.std, rtol=1e-4, atol=1e-5)


def test_the_standard_deviation_is_computed_from_the_fixed_class_centres() -> None:
    """A trained codebook changes the expected value of an image, but not the class centres."""
    output = distribution()
    moved = Distribution(output.probability, output.value + 5, output.centres)
    assert torch.equal(moved.reduced().std, output.reduced().std)
    assert torch.equal(moved.reduced().value, output.value + 5)


@pytest.mark.parametrize("origin", [0.0, 4.0])
def test_moments_with_signs_are_those_of_the_signed_distribution(origin: float) -> None:
    signs = torch.tensor([-1.0, 1.0, -1.0])
    output = distribution(origin=origin)
    moments = output.reduced().with_signs(signs)
    signed = Distribution(
        output.probability, output.value * signs[:, None, None], output.centres * signs
    )
    mean, std = reference_moments(signed)
    torch.testing.assert_close(
        (moments.mean + moments.origin[:, None, None]).double(), mean, rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(moments.std.double(), std, rtol=1e-3, atol=1e-4)
    assert torch.equal(moments.value, signed.value)
    twice = moments.with_signs(signs)
    torch.testing.assert_close(twice.stack, output.reduced().stack, rtol=1e-4, atol=1e-4)


def test_mirrored_normals_change_sides_and_the_sign_of_x() -> None:
    """Two pixels; the left one has two vectors with equal probability."""
    centres = torch.tensor([[0.6, 0.0, -0.8], [-0.6, 0.0, -0.8]])
    probability = torch.tensor([[0.5, 1.0], [0.5, 0.0]])[None, :, None]
    output = Distribution(probability, expectation(probability, centres[None]), centres)
    signs = torch.tensor([-1.0, 1.0, 1.0])
    mirrored = output.reduced().mirrored().with_signs(signs)
    assert isinstance(mirrored, Moments)
    torch.testing.assert_close(mirrored.value[0, :, 0, 0], torch.tensor([-0.6, 0.0, -0.8]))
    torch.testing.assert_close(mirrored.value[0, :, 0, 1], torch.tensor([0.0, 0.0, -0.8]))
    expected = torch.tensor([0.0, (0.36 / 3) ** 0.5])
    torch.testing.assert_close(mirrored.std[0, 0], expected, rtol=1e-4, atol=3e-4)


def test_a_distribution_with_a_single_class_has_standard_deviation_zero() -> None:
    centres = torch.tensor([[300.0], [310.0]])
    probability = torch.tensor([0.0, 1.0])[None, :, None, None]
    output = Distribution(probability, torch.tensor([[[[310.0]]]]), centres)
    assert float(output.reduced().std) == 0
