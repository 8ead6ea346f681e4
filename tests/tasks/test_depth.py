"""The depth task: loss mask, decoding, the meaning of a flip, pictures."""

import math

import pytest
import torch
from tests.contracts import TaskContract
from tests.support import noise

from diffsight.config import to_config
from diffsight.metrics.depth import NAMES, DepthMetrics
from diffsight.tasks.colour import UNKNOWN_RGB, depth_table, error_table
from diffsight.tasks.depth import MetricDepth
from diffsight.types import DepthPrediction, RawOutput, Target


def ramp(height: int = 6, width: int = 8) -> torch.Tensor:
    return torch.linspace(1, 5, height * width).reshape(1, 1, height, width)


def target_of(label: torch.Tensor) -> Target:
    return Target(label, torch.ones_like(label[:, 0], dtype=torch.bool))


def prediction_of(depth_m: torch.Tensor) -> DepthPrediction:
    return DepthPrediction(depth_m, depth_m > 0, "z")


class TestMetricDepth(TaskContract):
    def build(self) -> MetricDepth:
        return MetricDepth()

    def target(self) -> Target:
        label = 1 + 5 * noise(2, 1, *self.size).sigmoid()
        label[:, :, 0] = math.nan
        return Target(label, label[:, 0].isfinite())

    def perfect(self, target: Target) -> RawOutput:
        return RawOutput(target.label.nan_to_num(2.0), "value")

    def spoil(self, raw: RawOutput) -> RawOutput:
        return RawOutput(raw.maps * noise(*raw.maps.shape, seed=1).exp(), "value")

    def scores(self, raw: RawOutput, target: Target) -> tuple[dict[str, float], dict[str, float]]:
        metric = DepthMetrics()
        metric.update(raw.maps[:, 0], target.label[:, 0], target.valid)
        result = metric.compute()
        best = dict.fromkeys(NAMES, 0.0) | {"d1": 1.0, "d2": 1.0, "d3": 1.0}
        return {name: float(result[name]) for name in NAMES}, best


def test_loss_counts_every_positive_label_and_nothing_else() -> None:
    label = ramp()
    label[0, 0, 0, :2] = torch.tensor([0.0, 500.0])
    raw = RawOutput(2 * label.clamp(min=1), "value")
    losses = MetricDepth(max_depth_m=10.0).loss(raw, target_of(label))
    # 500 m is far beyond the range, and yet part of the loss: its factor of 2 is that of all others
    assert float(losses["loss"]) == pytest.approx(math.sqrt(0.5) * math.log(2), abs=1e-6)


def test_perfect_prediction_has_no_loss() -> None:
    label = ramp()
    assert float(MetricDepth().loss(RawOutput(label, "value"), target_of(label))["loss"]) == 0


def test_decode_marks_what_is_outside_the_range() -> None:
    values = torch.tensor([[5e-4, 1e-3, 10.0, 10.1, math.nan, math.inf, -math.inf, -1.0]])
    (prediction,) = MetricDepth(depth_type="euclidean").decode(
        RawOutput(values[None, None], "value")
    )
    assert prediction.valid.tolist() == [[False, True, True, False, False, False, False, False]]
    assert prediction.depth_type == "euclidean"
    assert torch.equal(prediction.depth_m[0, :4], values[0, :4])


def test_spread_of_the_passes_becomes_the_uncertainty() -> None:
    task = MetricDepth()
    (prediction,) = task.decode(RawOutput(ramp(), "value", std=ramp() / 10))
    assert torch.equal(prediction.uncertainty_m, ramp()[0, 0] / 10)
    assert task.decode(RawOutput(ramp(), "value"))[0].uncertainty_m is None


def test_logits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"space 'value'.*'logits'"):
        MetricDepth().decode(RawOutput(ramp(), "logits"))


def test_double_flip_is_the_identity() -> None:
    raw = RawOutput(ramp(), "value", {"rel": ramp() + 1}, std=ramp() + 2)
    task = MetricDepth()
    once, twice = task.hflip(raw), task.hflip(task.hflip(raw))
    assert torch.equal(once.maps, raw.maps.flip(-1))
    assert torch.equal(twice.maps, raw.maps)
    assert torch.equal(twice.auxiliary["rel"], raw.auxiliary["rel"])
    assert once.std is not None
    assert torch.equal(once.std, ramp().flip(-1) + 2)


def test_truth_is_a_prediction_that_keeps_the_data_sets_validity() -> None:
    label = ramp()
    label[0, 0, 0, 0] = 0
    target = target_of(label)
    target.valid[0, 0, 1] = False
    (truth,) = MetricDepth().truth(target)
    assert truth.valid.sum() == label.numel() - 2
    assert torch.equal(truth.depth_m, label[0, 0])


def test_range_is_checked() -> None:
    with pytest.raises(ValueError, match="min_depth_m < max_depth_m"):
        MetricDepth(min_depth_m=2.0, max_depth_m=1.0)


def test_constructor_call_is_remembered() -> None:
    config = to_config(MetricDepth(max_depth_m=80.0))
    assert config["class_path"] == "diffsight.tasks.depth.MetricDepth"
    assert config["init_args"]["max_depth_m"] == 80.0


def test_near_is_light_and_far_is_dark() -> None:
    depth_m = ramp()[0, 0]
    depth_m[2, 3] = math.nan
    picture = MetricDepth().draw(prediction_of(depth_m))
    assert picture.shape == (3, 6, 8)
    assert picture[:, 0, 0].tolist() == depth_table()[0].tolist()
    assert picture[:, -1, -1].tolist() == depth_table()[255].tolist()
    assert tuple(picture[:, 2, 3].tolist()) == UNKNOWN_RGB


@pytest.mark.parametrize("fill", [3.0, math.nan])
def test_constant_and_empty_maps_can_be_drawn(fill: float) -> None:
    picture = MetricDepth().draw(prediction_of(torch.full((4, 5), fill)))
    colours = picture.flatten(1).unique(dim=1)
    expected = depth_table()[128] if fill == 3.0 else UNKNOWN_RGB
    assert colours.shape == (3, 1)
    assert abs(colours[:, 0].int() - torch.tensor([int(c) for c in expected])).max() <= 2


def test_panel_shows_where_a_prediction_errs() -> None:
    truth = prediction_of(torch.full((4, 5), 2.0))
    depth_m = truth.depth_m.clone()
    depth_m[0], depth_m[1] = 0.5, 8.0
    image = torch.full((3, 4, 5), 0.5)
    picture = MetricDepth().panel(image, truth, prediction_of(depth_m))
    assert picture.shape == (3, 4, 20)
    parts = picture.unflatten(2, (4, 5)).permute(2, 0, 1, 3)
    assert (parts[0] == 128).all()
    assert torch.equal(parts[1][:, 2:], parts[2][:, 2:])
    assert (parts[3][:, 0].T.numpy() == error_table()[0]).all()
    assert (parts[3][:, 1].T.numpy() == error_table()[255]).all()
    assert parts[3][:, 2:].min() > 235


def test_colour_tables_are_even_in_lightness() -> None:
    for table, sign in ((depth_table(), -1), (error_table()[:128], 1), (error_table()[128:], -1)):
        luma = table.astype(float) @ [0.2126, 0.7152, 0.0722]
        steps = sign * (luma[8:] - luma[:-8])
        assert (steps > 0).all()
