import math

import pytest
import torch
from tests.contracts import HeadContract
from tests.support import enliven, pyramid_of

from diffsight.errors import InputError
from diffsight.heads import MetricBins, metric_bins
from diffsight.heads.metric_bins import LogBinomial
from diffsight.outputs import OutputSpec

METRES = OutputSpec("values", 1, bounds=(0.0, 10.0))
SMALL = {"widths": (4, 4), "width": 6, "attractors": (3, 2, 1), "bins": 8}


def test_parameters_of_evp() -> None:
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
    found = {n: sum(p.numel() for p in module.parameters()) for n, module in head.named_children()}
    assert found == parts


def test_an_attractor_pulls_by_the_inverse_law() -> None:
    head = MetricBins(in_channels=[4], strides=[8], output=METRES, **SMALL)
    centres = torch.tensor([2.0, 3.0])[None, :, None, None]
    moved = head.moved(centres, torch.tensor([3.0])[None, :, None, None])
    torch.testing.assert_close(moved.flatten(), torch.tensor([2 + 1 / 301, 3.0]))
    two = head.moved(centres, torch.tensor([3.0, 2.0])[None, :, None, None])
    torch.testing.assert_close(two.flatten(), torch.tensor([2 + 0.5 / 301, 3 - 0.5 / 301]))


def test_a_log_binomial_is_nearly_the_binomial() -> None:
    """At temperature 1 and without Stirling's error it would be the binomial distribution."""
    layer = LogBinomial(2, 64, (1.0, 1.0))
    layer.mlp = torch.nn.Identity()
    share = 0.3
    conditions = torch.tensor([share, 1 - share, 1.0, 1.0])[None, :, None, None]
    found = layer(conditions)[0, :, 0, 0]
    exact = torch.tensor([math.comb(63, k) * share**k * (1 - share) ** (63 - k) for k in range(64)])
    assert found.sum().item() == pytest.approx(1, abs=1e-5)
    assert abs(int(found.argmax()) - int(exact.argmax())) <= 1
    mean = (found * torch.arange(64)).sum().item()
    assert mean == pytest.approx(63 * share, rel=0.02)


def test_unusable_pyramids() -> None:
    with pytest.raises(InputError, match=r"one map of bounded values .*, not 2 maps"):
        MetricBins(in_channels=[4], strides=[8], output=OutputSpec("values", 2), **SMALL)
    with pytest.raises(InputError, match="a task with a maximum"):
        MetricBins(in_channels=[4], strides=[8], output=OutputSpec("values", 1), **SMALL)
    with pytest.raises(InputError, match="give 3 numbers of attractors and a stride of at least 8"):
        MetricBins(in_channels=[4], strides=[4], output=METRES, **SMALL)


def test_depth_is_positive_and_no_bin_is_bounded() -> None:
    head = enliven(MetricBins(in_channels=[4], strides=[8], output=METRES, **SMALL)).eval()
    head.seed[-1].bias.data.fill_(90.0)
    with torch.no_grad():
        depth_m = head(pyramid_of((4,), (8,), 1, 32, 40)).maps
    assert depth_m.shape == (1, 1, 32, 40)
    assert depth_m.min() > 10  # the decoder's own bound is no bound here


class TestMetricBins(HeadContract):
    pyramids = (((6,), (8,)), ((4,), (16,)))
    output = METRES

    def build(self, in_channels: tuple[int, ...], strides: tuple[int, ...]) -> MetricBins:
        return MetricBins(in_channels=in_channels, strides=strides, output=self.output, **SMALL)


def test_strips_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    head = enliven(MetricBins(in_channels=[4], strides=[8], output=METRES, **SMALL)).eval()
    pyramid = pyramid_of((4,), (8,), 2, 40, 24)
    whole = head(pyramid).maps
    assert whole.std() > 0
    monkeypatch.setattr(metric_bins, "STRIP_ROWS", 7)
    torch.testing.assert_close(head(pyramid).maps, whole, rtol=1e-6, atol=0)
