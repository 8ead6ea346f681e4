"""Thresholds have the stated coverage, and calibration does not change the adapted model."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support_adapt import assert_same_weights
from tests.training.conftest import Stripes, Tiny

from diffsight.adaptation.calibration import calibrate, thresholds
from diffsight.adaptation.candidates import Candidate, MethodSpec
from diffsight.adaptation.progress import Progress
from diffsight.adaptation.selection import select
from diffsight.backbones import BackboneSource
from diffsight.hub.check import check_info
from diffsight.inference.confidence import CONFIDENCES, Calibration
from diffsight.methods.base import FitSettings
from diffsight.model import DenseModel
from diffsight.outputs import Classes, Values
from diffsight.tasks import Depth, Segmentation
from diffsight.training.state import AdaptState
from diffsight.types import Boxes, Target


def random_scores(images: int, seed: int, pixels: int = 40) -> list[torch.Tensor]:
    """Return the scores of the pixels of each image; some images have larger scores than others."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.randn(images, 1, generator=generator).exp()
    return [*(scale * torch.randn(images, pixels, generator=generator).abs())]


def threshold_by_search(scores: list[torch.Tensor], confidence: float) -> float:
    """Return the smallest score with sufficient mean coverage; all scores are tried in order."""
    images = len(scores)
    for q in sorted(torch.cat(scores).tolist()):
        coverage = sum(float((one <= q).double().mean()) for one in scores) / images
        if coverage >= confidence * (images + 1) / images - 1e-9:
            return q
    return math.inf


def test_thresholds_are_the_smallest_with_sufficient_coverage() -> None:
    scores = random_scores(12, seed=0)
    scores[0] = scores[0][:7]  # images with fewer pixels have the same weight
    curve = thresholds(scores)
    assert max(curve) == 0.92  # the limit for 12 images is 12 / 13
    assert [*curve] == [c for c in CONFIDENCES if c <= 0.92]
    for confidence in (0.5, 0.8, 0.9, 0.92):
        assert curve[confidence] == pytest.approx(threshold_by_search(scores, confidence), abs=0)
    assert [*curve.values()] == sorted(curve.values())


@pytest.mark.parametrize(("images", "confidence"), [(9, 0.9), (20, 0.9), (8, 0.8)])
def test_new_images_are_covered_at_the_confidence_on_average(
    images: int, confidence: float
) -> None:
    """By conformal risk control, coverage is between c and c + 2 / (n + 1) without ties."""
    covered = []
    for trial in range(400):
        *known, new = random_scores(images + 1, seed=trial)
        covered.append(float((new <= thresholds(known)[confidence]).double().mean()))
    mean = torch.tensor(covered)
    error = float(mean.std()) / 400**0.5
    assert mean.mean() > confidence - 2 * error
    assert mean.mean() < confidence + 2 / (images + 1) + 2 * error


@pytest.mark.parametrize(("images", "highest"), [(1, 0.5), (4, 0.8), (8, 0.885), (9, 0.9)])
def test_the_highest_confidence_depends_on_the_number_of_images(
    images: int, highest: float
) -> None:
    assert max(thresholds(random_scores(images, seed=1))) == highest


def test_residuals_are_the_errors_of_the_mean_depth_of_each_image() -> None:
    task = Depth(max_depth_m=8.0)
    rows = []
    for i in range(10):
        output = Values(torch.full((1, 1, 2, 5), 2.0))
        label = torch.full((1, 1, 2, 5), 2.0 + i / 10)
        rows.append((output, Target(label, torch.ones(1, 2, 5, dtype=torch.bool))))
    found = calibrate(task, rows)
    calibration = Calibration.of({"calibration": json.loads(json.dumps(found))})
    assert calibration.at(0.9).q == pytest.approx(0.9)
    assert calibration.at(0.9).half_widths["mean"] == pytest.approx(0.9)
    assert calibration.at(0.5).half_widths["mean"] == pytest.approx(0.5)  # the 6th of 11 values
    assert len(found["residuals"]["mean"]) == 9  # the residual 0 is not stored


def test_confidences_with_an_infinite_threshold_are_left_out() -> None:
    scores = random_scores(10, seed=3)
    scores[0][:] = math.inf
    assert max(thresholds(scores)) < 0.82
    assert all(math.isfinite(q) for q in thresholds(scores).values())


def test_residuals_of_classes_are_the_errors_of_their_area_fractions() -> None:
    task = Segmentation(["floor", "wall", "door"])
    maps = torch.zeros(1, 3, 4, 4)
    maps[:, 0] = 5
    label = torch.zeros(1, 4, 4, dtype=torch.long)
    label[:, 0] = 1
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    valid[:, :, 2:] = False
    found = calibrate(task, [(Classes(maps), Target(label, valid))] * 4)
    assert found["residuals"] == {
        "area.floor": [0.25] * 4,
        "area.wall": [0.25] * 4,
        "area.door": [],
    }


def tiny_candidate(name: str = "tiny") -> Candidate:
    settings = FitSettings({"": 1e-2}, batch_size=3, max_steps=20)
    task = Depth(max_depth_m=None)
    source = BackboneSource("tiny")
    return Candidate(name, Tiny, settings, task, MethodSpec(Tiny), source, short_side=8)


def trained(count: int = 9, names: tuple[str, ...] = ("tiny",), **options: Any) -> DenseModel:
    torch.manual_seed(99)
    samples = [Stripes()[i] for i in range(count)]
    candidates = [tiny_candidate(name) for name in names]
    given = {"steps": 4, "calibrate": True, **options}
    return select(samples, candidates[0].task, candidates, **given)


def test_calibrating_a_single_method_trains_on_all_folds_and_keeps_the_model() -> None:
    seen: list[Progress] = []
    model = trained(advance=seen.append)
    assert [*dict.fromkeys(one.run for one in seen)] == [
        "tiny, fold 1 of 1",
        "tiny, all images",
        "tiny, fold 2 of 3",
        "tiny, fold 3 of 3",
    ]
    assert seen[-1].fraction == pytest.approx(1)
    fractions = [one.fraction for one in seen]
    assert fractions == sorted(fractions)
    plain = trained(calibrate=False)
    assert_same_weights(model, plain)
    calibration = model.info.pop("calibration")
    assert model.info == plain.info
    assert calibration["images"] == 9
    assert calibration["confidence"][-1] == 0.9
    check_info({"calibration": json.loads(json.dumps(calibration))})


def test_below_nine_images_a_single_method_is_not_calibrated() -> None:
    assert "calibration" not in trained(8).info


def test_compared_methods_are_calibrated_without_further_trainings() -> None:
    seen: list[Progress] = []
    model = trained(6, ("one", "other"), advance=seen.append)
    assert len({one.run for one in seen}) == 7
    assert model.info["calibration"]["images"] == 6
    assert model.info["calibration"]["confidence"][-1] == 0.855


def test_a_validation_set_is_used_for_calibration() -> None:
    others = [Stripes(length=30)[i] for i in range(12, 22)]
    model = trained(5, validation=others)
    assert model.info["calibration"]["images"] == 10
    plain = trained(5, validation=others, calibrate=False)
    assert_same_weights(model, plain)


def test_an_interrupted_calibration_keeps_the_model_and_can_be_resumed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state"

    def stop(progress: Progress) -> None:
        if progress.run == "tiny, fold 3 of 3" and progress.step == 2:
            raise KeyboardInterrupt

    whole = trained()
    half = trained(state=AdaptState.open(path, {}, resume=False), advance=stop)
    assert half.info["interrupted"]
    assert "calibration" not in half.info
    assert_same_weights(half, whole)
    seen: list[Progress] = []
    again = trained(state=AdaptState.open(path, {}, resume=True), advance=seen.append)
    assert (seen[0].run, seen[0].step) == ("tiny, fold 3 of 3", 3)
    assert seen[-1].fraction == pytest.approx(1)
    assert_same_weights(again, whole)
    assert again.info == whole.info


def test_unlabelled_images_are_skipped_and_box_labels_are_not_calibrated() -> None:
    task = Segmentation(("a", "b"))
    maps = torch.randn(1, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(1, 4, 5, dtype=torch.long)
    full, empty = (torch.full((1, 4, 5), value) for value in (True, False))
    rows = [(Classes(maps), Target(label, valid)) for valid in [full] * 4 + [empty] * 2]
    assert calibrate(task, rows)["images"] == 4
    assert calibrate(task, rows[4:]) == {}
    boxes = Boxes(torch.tensor([1]), torch.tensor([[0.0, 0.0, 4.0, 5.0]]), torch.tensor([True]), 0)
    assert calibrate(task, [(Classes(maps), Target(label, full, (boxes,)))] * 4) == {}
