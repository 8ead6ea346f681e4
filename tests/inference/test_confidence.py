"""Predictions with intervals or sets of classes, from a stored calibration."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support_inference import Brightness, calibrated, model
from tests.support_models import edit_config, tiny

from diffsight.errors import InputError
from diffsight.hub import load, save
from diffsight.inference.confidence import (
    Calibration,
    ConfidentPrediction,
    count_required_images,
    select_threshold,
)
from diffsight.inference.pipeline import pipeline
from diffsight.inference.plan import Plan
from diffsight.inference.predictor import Predictor
from diffsight.outputs import Classes, Distribution, Values
from diffsight.tasks import Depth, Normals, Segmentation
from diffsight.tasks import Values as ValuesTask
from diffsight.tasks.numbers import MIN_SCALE


def test_a_confidence_uses_the_next_larger_stored_threshold() -> None:
    calibration = Calibration.of(calibrated())
    assert [calibration.at(c).q for c in (0.5, 0.51, 0.8, 0.801, 0.9)] == [
        *(0.1, 0.25, 0.25, 1.25, 1.25)
    ]
    assert calibration.at(0.9).half_widths == {"mean": 0.7}  # the largest of nine residuals
    assert calibration.at(0.8).half_widths == {"mean": 0.6}
    assert Calibration(9, [0.9], [1.0], {"mean": []}).at(0.9).half_widths == {"mean": 0.0}


@pytest.mark.parametrize(
    ("confidence", "images"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)]
)
def test_required_images_grow_with_the_confidence(confidence: float, images: int) -> None:
    assert count_required_images(confidence) == images


@pytest.mark.parametrize(
    ("info", "confidence", "message"),
    [
        (
            calibrated(images=8, confidence=[0.5, 0.885], q=[1, 2]),
            0.9,
            "confidence 0.9 needs 9 labelled images, the model was calibrated on 8: label more "
            "images, or give --confidence 0.885",
        ),
        (calibrated(), 0.4, "confidence 0.4: give a number from 0.5 to 0.999"),
        (calibrated(), float("nan"), "confidence nan: give a number from 0.5 to 0.999"),
        (
            {},
            0.9,
            "the model has no calibration for --confidence: adapt it again with `diffsight adapt` "
            "on 9 or more labelled images, or leave --confidence out",
        ),
    ],
)
def test_a_confidence_out_of_range_or_without_calibration_is_refused(
    info: dict[str, Any], confidence: float, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        select_threshold(info, Plan(), confidence)
    assert str(caught.value) == message


def test_depth_intervals_are_not_negative_and_have_mean_and_volume() -> None:
    one = model(Brightness)
    one.info = {**calibrated(), "unit": "m"}
    image = np.zeros((4, 6, 3), np.uint8)
    image[:2] = 255
    plain = pipeline(one, device="cpu")
    prediction = plain.with_confidence(0.9)(image)
    assert "low" not in plain(image).arrays()
    assert isinstance(prediction, ConfidentPrediction)
    assert prediction.kind == "depth"
    depth_m = prediction.depth_m.numpy()  # two rows of 2 m and two of 1 m
    numbers, unit = prediction.numbers()
    assert (numbers.tolist(), unit) == (depth_m.tolist(), "m")
    arrays = {name: array.values for name, array in prediction.arrays().items()}
    np.testing.assert_allclose(arrays["high"], depth_m + 1.25, rtol=1e-6)
    np.testing.assert_allclose(arrays["low"], np.maximum(depth_m - 1.25, 0), rtol=1e-6)
    # intervals are wider than 2 m, twice the label deviation of 1 m
    assert (arrays["abstain"] == 255).all()
    about = json.loads(json.dumps(prediction.metadata()))["calibrated"]
    assert (about["confidence"], about["q"], about["images"]) == (0.9, 1.25, 9)
    assert about["same_plan"] is True
    assert about["abstained"] == 1.0
    assert about["mean"] == {
        "value": 1.5,
        "low": pytest.approx(0.8),
        "high": pytest.approx(2.2),
        "unit": "m",
    }
    assert about["volume"]["value"] == 36.0
    assert about["volume"]["unit"] == "m·px"
    copied = copy.deepcopy(prediction)
    assert torch.equal(copied.depth_m, prediction.depth_m)


def test_predictions_without_a_confidence_have_no_intervals() -> None:
    one = model(Brightness)
    one.info = calibrated()
    prediction = pipeline(one, device="cpu")(np.zeros((4, 6, 3), np.uint8))
    assert "low" not in prediction.arrays()
    assert "calibrated" not in prediction.metadata()


def test_a_plan_that_differs_from_the_calibration_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = model(Brightness)
    one.info = {**calibrated(), "short_side": 16}
    same = Predictor(one, Plan(16, batch_size=4))
    same.use_confidence(0.8)
    assert not caplog.messages
    assert same.threshold is not None
    assert same.threshold.is_same_plan
    other = Predictor(one, Plan(16, flip=True))
    other.use_confidence(0.8)
    (message,) = caplog.messages
    assert "with flip: differs from the plan of the calibration" in message
    prediction = other.one(torch.zeros(3, 16, 16))
    assert prediction.metadata()["calibrated"]["same_plan"] is False


def test_a_set_contains_the_classes_with_a_score_up_to_the_threshold() -> None:
    task = Segmentation(["floor", "wall", "door"])
    probability = torch.tensor([[0.98, 0.55, 0.4], [0.01, 0.44, 0.35], [0.01, 0.01, 0.25]])
    output = Classes(probability[None, :, None], "probabilities")
    classes = task.prediction_set(output, 0.6)
    expected = [[[True, True, True]], [[False, True, False]], [[False] * 3]]
    assert classes.arrays["set"].values.tolist() == expected
    assert classes.abstain.tolist() == [[False, True, False]]
    label = torch.tensor([[[0, 1, 2]]])
    torch.testing.assert_close(
        task.nonconformity(output, label), torch.tensor([[[0.02, 0.56, 0.75]]])
    )
    for number in range(3):
        score = task.nonconformity(output, torch.full_like(label, number))[0]
        is_in_set = torch.from_numpy(classes.arrays["set"].values[number])
        assert torch.equal(is_in_set, score <= 0.6)
    smallest = task.prediction_set(output, 0.0)  # the most probable class is in every set
    assert smallest.arrays["set"].values.sum(axis=0).tolist() == [[1, 1, 1]]
    assert task.totals(label[0], torch.tensor([[True, True, False]])) == {
        "area.floor": 0.5,
        "area.wall": 0.5,
        "area.door": 0.0,
    }


def test_scores_of_scalars_are_errors_divided_by_the_predicted_deviation() -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.rand(500, 1, generator=generator)
    task = ValuesTask(bins=4, spacing="linear").fitted(numbers)
    assert task.codec is not None
    std = float(task.codec.label_std)
    probability = torch.tensor([[0.5, 0.0, 0.0, 0.5], [0.0, 1.0, 0.0, 0.0]]).T[None, :, None]
    centres = task.codec.centres
    value = torch.einsum("bnhw,nd->bdhw", probability, centres)
    output = Distribution(probability, value, centres).reduced()
    label = value + 0.1
    wide = float((centres[3] - centres[0]) / 2)
    expected = torch.tensor([[[0.1 / wide, 0.1 / (MIN_SCALE * std)]]])
    torch.testing.assert_close(task.nonconformity(output, label), expected, rtol=1e-3, atol=0)
    interval = task.prediction_set(output, 2.0)
    width = interval.arrays["high"].values - interval.arrays["low"].values
    np.testing.assert_allclose(width, [[4 * wide, 4 * MIN_SCALE * std]], rtol=1e-3)
    assert interval.abstain.tolist() == [[True, False]]
    label[..., 0] = torch.nan
    assert task.nonconformity(output, label)[0, 0, 0] == torch.inf


def test_prediction_sets_of_normals_are_cones_with_an_angle() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(500, 3, generator=generator)
    task = Normals(bins=8).fitted(torch.nn.functional.normalize(directions, dim=1))
    assert task.codec is not None
    maps = torch.tensor([0.0, 0.0, 2.0])[None, :, None, None]
    deviation = float(torch.rad2deg(torch.linalg.vector_norm(task.codec.label_std)))
    label = torch.tensor([1.0, 0.0, 1.0])[None, :, None, None]
    score = task.nonconformity(Values(maps), label)
    torch.testing.assert_close(score, torch.tensor([[[45 / deviation]]]))
    cone = task.prediction_set(Values(maps), 0.5)
    np.testing.assert_allclose(cone.arrays["radius"].values, [[deviation / 2]], rtol=1e-6)
    assert cone.meaning["radius_unit"] == "°"
    assert task.totals(label[0], torch.ones(1, 1, dtype=torch.bool)) == {}


def test_prediction_sets_of_vectors_are_balls_with_a_radius() -> None:
    task = ValuesTask(channels=2)
    maps = torch.zeros(1, 2, 1, 1)
    label = torch.tensor([3.0, 4.0])[None, :, None, None]
    assert float(task.nonconformity(Values(maps), label)) == 5.0
    assert task.prediction_set(Values(maps), 2.0).arrays["radius"].values.tolist() == [[2.0]]


def test_a_calibration_is_saved_and_loaded(tmp_path: Path) -> None:
    one = tiny()
    one.info |= calibrated()
    again = load(save(one, tmp_path / "model.safetensors"))
    assert select_threshold(again.info, Plan(), 0.9) == select_threshold(one.info, Plan(), 0.9)


@pytest.mark.parametrize(
    "damage",
    [
        {"images": 0},
        {"images": "nine"},
        {"q": [0.1, 0.25]},
        {"q": [0.1, 0.3, 0.2]},
        {"q": [0.1, 0.3, None]},
        {"q": [-1.0, 0.3, 0.4]},
        {"q": 3},
        {"confidence": [], "q": []},
        {"confidence": [0.5, 0.8, 1.0]},
        {"residuals": None},
        {"residuals": {"mean": [3, 2, 1]}},
        {"residuals": {"mean": [1.0] * 10}},
    ],
)
def test_a_damaged_calibration_is_refused_in_one_line(
    damage: dict[str, Any], tmp_path: Path
) -> None:
    path = save(tiny(), tmp_path / "model.safetensors")
    edit_config(path, lambda config: config["info"].update(calibrated(**damage)))
    with pytest.raises(InputError) as caught:
        load(path)
    message = str(caught.value)
    assert f"{path}: info.calibration is " in message
    assert message.endswith(": write the calibration that adapt wrote, or delete it")
    assert "\n" not in message


def test_tasks_without_prediction_sets_raise_an_error() -> None:
    from diffsight.tasks import Referring

    task = Referring()
    assert not task.has_prediction_sets
    assert Depth.has_prediction_sets
    output = Classes(torch.zeros(1, 2, 1, 1))
    with pytest.raises(NotImplementedError, match="Referring has no prediction sets"):
        task.prediction_set(output, 0.5)
