"""The forecast measures real training steps and does not change the model."""

import copy
import functools
from dataclasses import replace

import pytest
import torch
from tests.training.conftest import Stripes, Tiny

from diffsight.model import DenseModel
from diffsight.tasks import Depth
from diffsight.training.data import TrainingStream
from diffsight.training.forecast import Forecast, TimeLeft, forecast, validations_left
from diffsight.training.objective import Supervised
from diffsight.training.rng import rng_state


def model_of(width: int) -> Supervised:
    model = DenseModel(task=Depth(), method=functools.partial(Tiny, width=width))
    return Supervised(model, None)


STREAM = TrainingStream(dataset=Stripes(side=16), label="depth_m", batch_size=4)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_forecast_does_not_change_the_training(dtype):
    model = model_of(4)
    before, random = copy.deepcopy(model.state_dict()), rng_state()
    forecast(model, STREAM, steps=10, dtype=dtype)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    # Python's own state is left out: beartype draws from it when it checks a call
    assert torch.equal(rng_state()["torch"], random["torch"])
    assert rng_state()["numpy"] == random["numpy"]
    assert model.training


def test_parameters_and_bytes_are_counted():
    cost = forecast(model_of(4), STREAM, steps=10, accumulate=3)
    assert (cost.parameters, cost.trainable) == (131, 125)
    assert cost.training_bytes == 3 * 4 * 125
    # weights, and the running mean, variance (4 each) and count (int64) of the normalisation
    assert cost.weights_bytes == 4 * 131 + 4 * 8 + 8
    assert cost.seconds_per_step > 0


def test_activations_grow_with_the_width_and_not_with_the_weights():
    narrow, wide = (forecast(model_of(w), STREAM, steps=1).activations_bytes for w in (4, 40))
    image = 4 * 4 * 16 * 16
    # kept are the input of the convolution, and about three maps per channel after it
    assert 3 * image + 4 * 3 * image <= narrow <= 3 * image + 4 * 6 * image
    assert wide > 5 * narrow


def test_a_forecast_is_described_in_three_lines():
    cost = Forecast(
        parameters=906_391_845,
        trainable=872_228_161,
        weights_bytes=3_625_567_380,
        training_bytes=10_466_737_932,
        activations_bytes=2**30,
        seconds_per_step=1.5,
        steps=25_225,
    )
    text = cost.describe()
    assert "906,391,845 parameters, 872,228,161 of them trainable" in text
    assert "about 14.12 GiB of memory per device" in text
    assert "25,225 steps of 1.5 s: about 10 h 31 min" in text


def test_the_description_mentions_tf32_if_it_is_used():
    cost = forecast(model_of(4), STREAM, steps=10)
    assert not cost.uses_tf32
    assert "TF32" not in cost.describe()
    assert "float32 products in TF32" in replace(cost, uses_tf32=True).describe()


def test_the_final_evaluation_counts_as_a_validation():
    assert validations_left(0, 100, 50) == 3
    assert validations_left(60, 100, 50) == 2
    assert validations_left(0, 100, 500) == 1
    cost = forecast(model_of(4), STREAM, steps=10, validations=3, scored_images=100.0)
    assert cost.seconds_per_validation > 0
    scoring_s = 3 * cost.seconds_per_validation
    assert cost.seconds == pytest.approx(10 * cost.seconds_per_step + scoring_s)


def test_the_description_includes_validations():
    cost = Forecast(1, 1, 1, 1, 1, 0.5, 200, validations=3, seconds_per_validation=20.0)
    line = cost.describe().splitlines()[-1]
    assert line == (
        "200 steps of 0.5 s and 3 validations of 20 s, the final evaluation included: about 3 min"
    )
    days = Forecast(1, 1, 1, 1, 1, 60.0, 10_000).describe()
    assert days.endswith("about 6 days 22 h")


def test_the_time_left_is_estimated_from_finished_steps_and_validations(monkeypatch):
    now = 100.0
    monkeypatch.setattr("diffsight.training.forecast.time.monotonic", lambda: now)
    left = TimeLeft(0, 100, 50, began=now)
    assert left.seconds(0) is None
    assert left.describe(0) == ""
    now += 20
    assert left.seconds(10) == 180  # 2 s per step; no validation was timed yet
    now += 80
    left.begin_scoring()
    now += 30
    left.end_scoring()
    assert left.seconds(50) == 50 * 2 + 2 * 30
    now += 50
    assert left.seconds(100) == pytest.approx(30)  # only the final evaluation is left
