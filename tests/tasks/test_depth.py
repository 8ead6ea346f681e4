"""Metric depth: the pixels of the loss, decoding, bins, pictures."""

import json
import math

import pytest
import torch
from tests.contracts import TaskContract
from tests.support import noise

from diffsight.config import to_config
from diffsight.errors import InputError
from diffsight.outputs import Classes, Distribution, Values
from diffsight.tasks import Depth, DepthPrediction
from diffsight.tasks.colour import UNKNOWN_RGB, depth_table, error_table
from diffsight.types import Target


def ramp(height: int = 6, width: int = 8) -> torch.Tensor:
    """Return depths that rise evenly from 1 to 5 m."""
    return torch.linspace(1, 5, height * width).reshape(1, 1, height, width)


def target_of(label: torch.Tensor) -> Target:
    return Target(label, torch.ones_like(label[:, 0], dtype=torch.bool))


def prediction_of(depth_m: torch.Tensor, **options) -> DepthPrediction:
    return DepthPrediction(depth_m, depth_m > 0, "z", **options)


def with_bins(**options) -> Depth:
    return Depth(bins=8, **options).fitted(torch.linspace(1, 5, 500)[:, None])


class TestDepth(TaskContract):
    def build(self) -> Depth:
        return Depth()

    def target(self) -> Target:
        label = 1 + 5 * noise(2, 1, *self.size).sigmoid()
        label[:, :, 0] = math.nan
        label[:, :, 1, 2:4] = math.inf
        return Target(label, label[:, 0].isfinite())


class TestDepthWithBins(TestDepth):
    def build(self) -> Depth:
        return Depth(bins=8).fitted(self.target().label[self.target().valid[:, None]][:, None])


def test_the_loss_is_computed_over_all_positive_labels() -> None:
    label = ramp()
    label[0, 0, 0, :2] = torch.tensor([0.0, 500.0])
    output = Values(2 * label.clamp(min=1))
    losses = Depth(max_depth_m=10.0).loss(output, target_of(label))
    # the label of 500 m is beyond the range but counts; predictions are twice every label
    assert float(losses["loss"]) == pytest.approx(math.sqrt(0.5) * math.log(2), abs=1e-6)


def test_a_perfect_prediction_has_no_loss() -> None:
    assert float(Depth().loss(Values(ramp()), target_of(ramp()))["loss"]) == 0


def test_decoding_marks_values_outside_the_range_as_invalid() -> None:
    values = torch.tensor([[5e-4, 1e-3, 10.0, 10.1, math.nan, math.inf, -math.inf, -1.0]])
    (prediction,) = Depth(depth_type="euclidean").decode(Values(values[None, None]))
    assert prediction.valid.tolist() == [[False, True, True, False, False, False, False, False]]
    assert prediction.depth_type == "euclidean"
    assert torch.equal(prediction.depth_m[0, :4], values[0, :4])
    (unbounded,) = Depth(max_depth_m=None).decode(Values(values[None, None]))
    assert unbounded.valid.tolist() == [[False, True, True, True, False, False, False, False]]


def test_the_standard_deviation_over_views_is_the_uncertainty() -> None:
    output = Values(ramp()).with_std(ramp() / 10)
    (prediction,) = Depth().decode(output)
    assert torch.equal(prediction.uncertainty_m, ramp()[0, 0] / 10)
    assert prediction.arrays()["uncertainty"].suffix == ".npy"
    assert Depth().decode(Values(ramp()))[0].uncertainty_m is None


def test_an_unknown_uncertainty_is_null_in_the_metadata() -> None:
    depth_m = ramp()[0, 0]
    prediction = prediction_of(depth_m, uncertainty_m=torch.full_like(depth_m, math.nan))
    metadata = prediction.metadata()
    assert metadata["uncertainty_m"]["median"] is None
    assert "NaN" not in json.dumps(metadata)


def test_the_uncertainty_of_a_distribution_is_its_standard_deviation() -> None:
    task = with_bins()
    p = noise(1, 8, 4, 5).softmax(dim=1)
    assert task.codec is not None
    x = task.codec.centres[:, 0].double()[:, None, None]
    mean = (p[0] * x).sum(dim=0)
    (prediction,) = task.decode(Distribution(p, mean[None, None].float(), task.codec.centres))
    std = (p[0] * (x - mean).square()).sum(dim=0).sqrt()
    torch.testing.assert_close(prediction.uncertainty_m.double(), std, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prediction.depth_m.double(), mean)
    assert prediction.display_m == (float(x.min()), float(x.max()))


def test_logits_are_refused() -> None:
    with pytest.raises(TypeError, match="Depth has no loss for Classes"):
        Depth().decode(Classes(ramp()))


def test_fitting_sets_bins_and_missing_bounds() -> None:
    labels = torch.linspace(0.5, 4, 300)[:, None]
    task = Depth(bins="auto", max_depth_m=None, min_depth_m=1.0)
    assert task.needs_fitting
    assert [spec.kind for spec in task.outputs] == ["distribution", "values"]
    fitted = task.fitted(labels)
    assert not fitted.needs_fitting
    assert (fitted.bins, fitted.max_depth_m, fitted.min_depth_m) == (50, 8.0, 0.25)
    assert fitted.outputs[0].channels == 50
    assert fitted.outputs[1].bounds == (0.0, 8.0)
    few = torch.tensor([1.0, 2.0, 3.0]).repeat(20)[:, None]
    assert task.fitted(few).bins == 3
    # a bound that was set is kept
    assert Depth(bins=4, max_depth_m=10.0).fitted(labels).max_depth_m == 10.0
    assert task.needs_fitting
    with pytest.raises(InputError, match="bins 1: give 2 or more"):
        Depth(bins=1)


def test_the_truth_is_valid_for_positive_labels_of_valid_pixels() -> None:
    label = ramp()
    label[0, 0, 0, 0] = 0
    target = target_of(label)
    target.valid[0, 0, 1] = False
    (truth,) = Depth().truth(target)
    assert truth.valid.sum() == label.numel() - 2
    assert torch.equal(truth.depth_m, label[0, 0])


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(InputError, match="min_depth_m < max_depth_m"):
        Depth(min_depth_m=2.0, max_depth_m=1.0)


def test_the_constructor_call_is_recorded() -> None:
    config = to_config(Depth(max_depth_m=80.0))
    assert config["class_path"] == "diffsight.tasks.depth.Depth"
    assert config["init_args"]["max_depth_m"] == 80.0
    fitted = to_config(with_bins())["init_args"]
    assert (fitted["bins"], fitted["max_depth_m"]) == (8, 10.0)


def test_stored_depth_is_in_millimetres_and_0_is_invalid() -> None:
    depth_m = torch.tensor([[1.2344, 0.0, 65.5354, 70.0]])
    prediction = prediction_of(depth_m)
    array = prediction.arrays()["depth"]
    assert array.values.tolist() == [[1234, 0, 65535, 0]]
    assert array.suffix == ".png"
    about = prediction.metadata()
    assert about["scale"] == 0.001
    assert about["valid"] == 0.75
    assert about["size"] == [4, 1]


def test_in_pictures_near_pixels_are_light_and_far_ones_dark() -> None:
    depth_m = ramp()[0, 0]
    depth_m[2, 3] = math.nan
    picture = prediction_of(depth_m).draw()
    assert picture.shape == (3, 6, 8)
    assert picture[:, 0, 0].tolist() == depth_table()[0].tolist()
    assert picture[:, -1, -1].tolist() == depth_table()[255].tolist()
    assert tuple(picture[:, 2, 3].tolist()) == UNKNOWN_RGB
    fixed = prediction_of(depth_m, display_m=(1.0, 9.0)).draw()
    assert fixed[:, -1, -1].tolist() == depth_table()[128].tolist()


@pytest.mark.parametrize("fill", [3.0, math.nan])
def test_constant_and_empty_maps_can_be_drawn(fill: float) -> None:
    picture = prediction_of(torch.full((4, 5), fill)).draw()
    colours = picture.flatten(1).unique(dim=1)
    expected = depth_table()[128] if fill == 3.0 else UNKNOWN_RGB
    assert colours.shape == (3, 1)
    assert abs(colours[:, 0].int() - torch.tensor([int(c) for c in expected])).max() <= 2


def test_the_panel_shows_the_error_of_every_pixel() -> None:
    truth = prediction_of(torch.full((4, 5), 2.0))
    depth_m = truth.depth_m.clone()
    depth_m[0], depth_m[1] = 0.5, 8.0
    image = torch.full((3, 4, 5), 0.5)
    picture = Depth().panel(image, truth, prediction_of(depth_m))
    assert picture.shape == (3, 4, 20)
    parts = picture.unflatten(2, (4, 5)).permute(2, 0, 1, 3)
    assert (parts[0] == 128).all()
    assert torch.equal(parts[1][:, 2:], parts[2][:, 2:])
    assert (parts[3][:, 0].T.numpy() == error_table()[0]).all()
    assert (parts[3][:, 1].T.numpy() == error_table()[255]).all()
    assert parts[3][:, 2:].min() > 235


def test_lightness_changes_steadily_along_the_colour_maps() -> None:
    for table, sign in ((depth_table(), -1), (error_table()[:128], 1), (error_table()[128:], -1)):
        luma = table.astype(float) @ [0.2126, 0.7152, 0.0722]
        steps = sign * (luma[8:] - luma[:-8])
        assert (steps > 0).all()


def test_the_mean_map_is_the_mean_of_every_position() -> None:
    labels = [torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 8.0]]])]
    valid = [torch.ones(1, 2).bool(), torch.tensor([[True, False]])]
    baselines = Depth().baselines(zip(labels, valid, strict=True))
    assert baselines["mean map"].tolist() == [[2.0, 2.0]]
    assert baselines["constant median"].shape == (1, 1)
