"""MetricBins: attractors, log-binomial distribution, and number of parameters."""

import math

import pytest
import torch
from tests.contracts import HeadContract
from tests.support import pyramid_of, randomise_weights

from diffsight.errors import InputError
from diffsight.heads import MetricBins, metric_bins
from diffsight.heads.metric_bins import LogBinomial
from diffsight.outputs import OutputSpec

METRES = OutputSpec("values", 1, bounds=(0.0, 10.0))
SMALL = {"widths": (4, 4), "width": 6, "attractors": (3, 2, 1), "bins": 8}


def test_the_number_of_parameters_is_that_of_evp() -> None:
    head = MetricBins(in_channels=[1536], strides=[32], output=METRES)
    parts = {
        "decoder": 594_561,
        "bottleneck": 4_129_280,
        "seed": 82_240,
        "seed_embedding": 49_408,
        "embeddings": 103_424,
        "attractors": 69_789,
        "distribution": 52_164,
    }
    counts = {n: sum(p.numel() for p in m.parameters()) for n, m in head.named_children()}
    assert counts == parts


def test_an_attractor_moves_centres_by_the_inverse_law() -> None:
    head = MetricBins(in_channels=[4], strides=[8], output=METRES, **SMALL)
    centres = torch.tensor([2.0, 3.0])[None, :, None, None]
    moved = head.move_centres(centres, torch.tensor([3.0])[None, :, None, None])
    torch.testing.assert_close(moved.flatten(), torch.tensor([2 + 1 / 301, 3.0]))
    two = head.move_centres(centres, torch.tensor([3.0, 2.0])[None, :, None, None])
    torch.testing.assert_close(two.flatten(), torch.tensor([2 + 0.5 / 301, 3 - 0.5 / 301]))


def test_the_log_binomial_distribution_is_close_to_the_binomial() -> None:
    """At temperature 1 they differ only by the error of Stirling's approximation."""
    layer = LogBinomial(2, 64, (1.0, 1.0))
    layer.mlp = torch.nn.Identity()
    p = 0.3
    conditions = torch.tensor([p, 1 - p, 1.0, 1.0])[None, :, None, None]
    probability = layer(conditions)[0, :, 0, 0]
    exact = torch.tensor([math.comb(63, k) * p**k * (1 - p) ** (63 - k) for k in range(64)])
    assert probability.sum().item() == pytest.approx(1, abs=1e-5)
    assert abs(int(probability.argmax()) - int(exact.argmax())) <= 1
    mean = (probability * torch.arange(64)).sum().item()
    assert mean == pytest.approx(63 * p, rel=0.02)


def test_other_outputs_and_small_strides_are_refused() -> None:
    with pytest.raises(InputError, match=r"one map of bounded values .*, not 2 maps"):
        MetricBins(in_channels=[4], strides=[8], output=OutputSpec("values", 2), **SMALL)
    with pytest.raises(InputError, match="a task with a maximum"):
        MetricBins(in_channels=[4], strides=[8], output=OutputSpec("values", 1), **SMALL)
    with pytest.raises(InputError, match="give 3 numbers of attractors and a stride of at least 8"):
        MetricBins(in_channels=[4], strides=[4], output=METRES, **SMALL)


def test_the_bound_of_the_decoder_depth_does_not_bound_the_bins() -> None:
    head = randomise_weights(
        MetricBins(in_channels=[4], strides=[8], output=METRES, **SMALL)
    ).eval()
    head.seed[-1].bias.data.fill_(90.0)
    with torch.no_grad():
        depth_m = head(pyramid_of((4,), (8,), 1, 32, 40)).maps
    assert depth_m.shape == (1, 1, 32, 40)
    assert depth_m.min() > 10  # the bound of 10 m applies only to the depth from the decoder


class TestMetricBins(HeadContract):
    pyramids = (((6,), (8,)), ((4,), (16,)))
    output = METRES

    def build(self, in_channels: tuple[int, ...], strides: tuple[int, ...]) -> MetricBins:
        return MetricBins(in_channels=in_channels, strides=strides, output=self.output, **SMALL)


def test_computing_in_strips_of_rows_does_not_change_the_depth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = randomise_weights(
        MetricBins(in_channels=[4], strides=[8], output=METRES, **SMALL)
    ).eval()
    pyramid = pyramid_of((4,), (8,), 2, 40, 24)
    whole = head(pyramid).maps
    assert whole.std() > 0
    monkeypatch.setattr(metric_bins, "STRIP_ROWS", 7)
    torch.testing.assert_close(head(pyramid).maps, whole, rtol=1e-6, atol=0)
