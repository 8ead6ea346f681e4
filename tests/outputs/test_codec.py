"""Soft labels, the expected value, and the state of a codec."""

import pytest
import torch
from tests.support import noise

from diffsight.codecs import ScalarBins, VectorCodebook
from diffsight.outputs import OutputSpec, SoftLabels, expectation


def test_soft_and_hard_labels_are_converted_to_a_distribution() -> None:
    ids = torch.tensor([[[0, 2]], [[1, 2]]])[None]
    weights = torch.tensor([[[0.25, 0.5]], [[0.75, 0.5]]])[None]
    soft = SoftLabels(ids, weights)
    assert soft.distribution(3)[0, :, 0].T.tolist() == [[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]]
    hard = SoftLabels.hard(torch.tensor([[[1, 0]]]))
    assert hard.distribution(2)[0, :, 0].T.tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_the_expected_value_is_exact_in_mixed_precision() -> None:
    """Around 300 K, bfloat16 has steps of 2 K."""
    centres = torch.linspace(282, 316, 20)[:, None]
    probability = noise(2, 20, 8, 8).softmax(dim=1)
    exact = expectation(probability, centres[None])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(expectation(probability, centres[None]), exact)
        rough = expectation(probability.bfloat16(), centres[None])
    assert rough.dtype == torch.float32
    assert len(exact.unique()) > 100
    assert expectation(probability.double(), centres[None]).dtype == torch.float64


@pytest.mark.parametrize(
    "build",
    [lambda: ScalarBins(4), lambda: VectorCodebook(6, 3, simplices=0, spherical=True)],
)
def test_a_codec_is_unfitted_until_it_is_fitted_or_loaded(build) -> None:
    codec = build()
    assert not codec.is_fitted
    fitted = build().with_statistics(noise(50, codec.centres.shape[1]))
    assert fitted.is_fitted
    codec.load_state_dict(fitted.state_dict())
    assert codec.is_fitted
    assert torch.equal(codec.label_std, fitted.label_std)
    assert list(codec.parameters()) == []


def test_an_output_spec_describes_itself() -> None:
    assert OutputSpec("values", 1).describe() == "1 map of values"
    assert OutputSpec("values", 3).describe() == "3 maps of values"
    assert OutputSpec("classes", 5).describe() == "logits of 5 classes"
    assert OutputSpec("distribution", 50).describe() == "a distribution over 50 classes"
