"""Smoothing over time: the formula, cuts, motion, and what stays as it is."""

from functools import partial

import numpy as np
import pytest
import torch
from tests.support_films import noisy_scene
from tests.support_inference import Brightness, Logits, calibrated, model, pose_model
from torch import Tensor

from diffsight.errors import InputError
from diffsight.inference import Pipeline, Plan, Predictor
from diffsight.inference.smoothing import CUT, FULL_CHANGE, SmoothedPredictor, Smoother
from diffsight.model import DenseModel
from diffsight.tasks import Segmentation


def film(count: int, noise: int = 12) -> list[Tensor]:
    return [torch.from_numpy(one).permute(2, 0, 1) for one in noisy_scene(count, noise=noise)]


def depths(predictor: Predictor, frames: list[Tensor]) -> Tensor:
    return torch.stack([one.to_label()[0] for one in predictor(frames)])


def change(maps: Tensor) -> float:
    """Return the mean absolute change between consecutive frames."""
    return maps.diff(dim=0).abs().mean().item()


def test_the_formula_is_that_of_the_docs() -> None:
    rng = np.random.default_rng(0)
    pictures = 0.5 + 0.03 * rng.standard_normal((4, 3, 20, 24))
    stacks = rng.standard_normal((4, 2, 20, 24))
    smoother, y, r = Smoother(0.8), stacks[0], pictures[0]
    for t, (picture, stack) in enumerate(zip(pictures, stacks, strict=True)):
        smoothed = smoother(torch.from_numpy(picture), torch.from_numpy(stack)).numpy()
        if t:
            d = np.abs(picture - r).mean(axis=0)
            assert d.mean() < CUT
            w = 0.8 * np.maximum(0, 1 - d / FULL_CHANGE)
            y, r = w * y + (1 - w) * stack, w * r + (1 - w) * picture
        assert smoothed == pytest.approx(y, abs=1e-9)


def test_smoothing_reduces_the_flicker_of_a_still_scene() -> None:
    frames = film(12)
    plain, smoothed = (
        depths(one, frames)[4:]
        for one in (
            Predictor(model(Brightness)),
            SmoothedPredictor(Predictor(model(Brightness)), 0.8),
        )
    )
    assert change(smoothed) < 0.4 * change(plain)
    assert (smoothed.mean(dim=0) - plain.mean(dim=0)).abs().max() < 0.05


def test_without_smoothing_nothing_changes() -> None:
    predictor = Predictor(model(Brightness), Plan(flip=True))
    frames = film(4)
    assert torch.equal(depths(SmoothedPredictor(predictor, 0.0), frames), depths(predictor, frames))


def test_the_same_film_has_the_same_predictions_again() -> None:
    smoothed = SmoothedPredictor(Predictor(model(Brightness), Plan(batch_size=3)), 0.9)
    frames = film(7)
    first = depths(smoothed, frames)
    assert torch.equal(depths(smoothed, frames), first)  # a call begins a new film
    alone = SmoothedPredictor(Predictor(model(Brightness)), 0.9)
    assert torch.equal(depths(alone, frames), first)  # the batch size changes nothing


def test_a_cut_ends_the_average() -> None:
    frames = film(3)
    frames += [255 - frame for frame in film(3)]
    plain = depths(Predictor(model(Brightness)), frames)
    smoothed = SmoothedPredictor(Predictor(model(Brightness)), 0.9)
    averaged = depths(smoothed, frames)
    assert smoothed.smoother.cuts == 1
    assert torch.equal(averaged[3], plain[3])
    assert not torch.equal(averaged[4], plain[4])


def test_moving_things_leave_no_trail() -> None:
    frames = []
    for i in range(8):
        frame = torch.full((3, 64, 96), 60, dtype=torch.uint8)
        frame[:, 20:44, 8 * i : 8 * i + 24] = 200
        frames.append(frame)
    plain = depths(Predictor(model(Brightness)), frames)
    averaged = depths(SmoothedPredictor(Predictor(model(Brightness)), 0.9), frames)
    assert (averaged - plain).abs().max() < 1e-6


def test_slow_changes_are_followed() -> None:
    """The frame is compared with the average, so that small changes add up."""
    frames = [torch.full((3, 32, 32), 60 + 2 * i, dtype=torch.uint8) for i in range(40)]
    plain = depths(Predictor(model(Brightness)), frames)
    averaged = depths(SmoothedPredictor(Predictor(model(Brightness)), 0.95), frames)
    assert (averaged - plain).abs().max() < 0.06  # 95 % of a plain average would lag by 0.15


def test_probabilities_of_classes_are_averaged() -> None:
    network = DenseModel(task=Segmentation(["a", "b", "c"]), method=partial(Logits))
    frames = film(6, noise=16)
    plain = torch.stack([one.to_label() for one in Predictor(network)(frames)])
    smoothed = list(SmoothedPredictor(Predictor(network), 0.8)(frames))
    labels = torch.stack([one.to_label() for one in smoothed])
    assert torch.equal(labels[0], plain[0])
    assert (labels.diff(dim=0) != 0).float().mean() < 0.6 * (plain.diff(dim=0) != 0).float().mean()
    for one in smoothed:
        confidence = torch.from_numpy(one.arrays()["confidence"].values)
        assert ((confidence >= 0.33) & (confidence <= 1)).all()


def test_pixels_without_a_prediction_do_not_spread() -> None:
    smoother, image = Smoother(0.8), torch.full((3, 16, 16), 0.5)
    bad = torch.zeros(1, 16, 16)
    bad[0, 0, 0], bad[0, 0, 1] = torch.nan, torch.inf
    assert not smoother(image, bad).isfinite().all()
    assert torch.equal(smoother(image, torch.ones(1, 16, 16))[0, 0, :2], torch.ones(2))


@pytest.mark.parametrize(
    "plan",
    [
        Plan(flip=True),
        Plan(scales=(1.0, 1.5)),
        Plan(scales=(1.0, 1.5), tile=24, stride=16),
    ],
)
def test_the_uncertainty_over_passes_is_kept(plan: Plan) -> None:
    predictor = Predictor(model(Brightness), plan)
    (plain,), (averaged,) = (
        [one.std for one in used(film(1))]
        for used in (predictor, SmoothedPredictor(predictor, 0.8))
    )
    assert plain is not None
    assert torch.equal(averaged, plain)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_numbers_out_of_range_are_refused(smoothing: float) -> None:
    with pytest.raises(InputError, match="give a number from 0 to below 1"):
        Smoother(smoothing)


def test_joints_are_not_smoothed() -> None:
    with pytest.raises(InputError, match="Pose has no maps of pixels to smooth"):
        SmoothedPredictor(Predictor(pose_model()), 0.8)


def test_intervals_say_that_they_are_not_calibrated_for_smoothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = model(Brightness)
    network.info |= calibrated()
    predictor = Predictor(network)
    predictor.use_confidence(0.9)
    (prediction,) = SmoothedPredictor(predictor, 0.8)(film(1))
    assert not prediction.metadata()["calibrated"]["same_plan"]
    assert "for frames without smoothing" in caplog.text


def test_a_pipeline_with_another_plan_or_a_confidence_still_smooths() -> None:
    network = model(Brightness)
    network.info |= calibrated()
    smoothed, frames = SmoothedPredictor(Predictor(network), 0.8), film(3)
    predict, expected = Pipeline(smoothed), depths(smoothed, frames)
    changed = torch.stack([one.to_label()[0] for one in predict(frames, batch_size=2)])
    assert torch.equal(changed, expected)
    confident = predict.with_confidence(0.9)
    for used in (confident(frames), confident(frames, batch_size=2)):
        assert torch.equal(torch.stack([one.to_label()[0] for one in used]), expected)
        assert not any(one.calibrated["same_plan"] for one in used)


def test_two_films_of_pipelines_with_other_plans_are_not_mixed() -> None:
    smoothed, frames = SmoothedPredictor(Predictor(model(Brightness)), 0.8), film(4)
    predict, expected = Pipeline(smoothed), depths(smoothed, frames)
    dark = [frame // 2 for frame in frames]
    pairs = zip(predict(iter(frames)), predict(iter(dark), batch_size=2), strict=True)
    assert torch.equal(torch.stack([one.to_label()[0] for one, _ in pairs]), expected)


def test_a_film_that_continues_does_so_with_another_plan() -> None:
    smoothed, frames = SmoothedPredictor(Predictor(model(Brightness)), 0.8), film(4)
    expected = depths(smoothed, frames)
    smoothed.continues = True
    smoothed.smoother.reset()
    parts = depths(smoothed, frames[:2]), depths(smoothed.with_plan(Plan(batch_size=2)), frames[2:])
    assert torch.equal(torch.cat(parts), expected)
