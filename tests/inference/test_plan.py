"""Plans: size of the model input, windows, description, and refused values."""

import re
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import images
from tests.support_export import MODELS
from tests.support_inference import Brightness, Jitter, model

from diffsight.errors import InputError
from diffsight.inference.plan import Plan, PlanError, ShortSide, short_side_px
from diffsight.types import Draws, Inputs

TRAINED = {"short_side": 64}


@pytest.mark.parametrize(
    ("short_side", "info", "expected"),
    [
        ("training", TRAINED, 64),
        ("training", {}, None),
        ("own", TRAINED, None),
        (480, TRAINED, 480),
    ],
)
def test_short_side_accepts_training_own_and_pixels(
    short_side: ShortSide, info: dict, expected: int | None
) -> None:
    assert short_side_px(short_side, info) == expected


ADE = {"short_side": 512, "long_side": 2048, "tile": 512, "stride": 341}


def test_the_plan_of_ade20k_has_the_windows_and_scales_of_the_paper() -> None:
    plan = Plan(**ADE, scales=(1.0, 1.125, 1.25, 1.375, 1.5), flip=True)
    assert plan.working_hw(512, 683) == (512, 683)
    assert plan.working_hw(300, 3000) == (205, 2048)  # limited by the long side
    assert plan.working_hw(512, 683, 1.125) == (576, 768)
    columns = [w[1] for w in plan.make_windows(512, 683)]
    assert columns == [slice(0, 512), slice(171, 683)]
    # the five scales have 1 x 2, 2 x 2 and three times 2 x 3 windows, each also mirrored
    assert plan.passes(512, 683) == (2 + 4 + 6 + 6 + 6) * 2
    line = plan.describe()
    for part in ("short side 512 px", "at most 2048", "512 px every 341 px", "1.375", "with flip"):
        assert part in line


SEVEN = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


def test_windows_have_the_same_size_at_all_scales_of_meta_prompts() -> None:
    ade = Plan(**ADE, scales=SEVEN, flip=True)
    assert [ade.working_hw(512, 683, scale) for scale in SEVEN[::3]] == [
        *((256, 342), (640, 854), (1024, 1366))
    ]
    # an image smaller than a window is one window
    assert ade.make_windows(256, 342) == [(slice(0, 256), slice(0, 342))]
    assert ade.passes(512, 683) == 2 * sum((1, 1, 2, 2 * 3, 2 * 3, 3 * 4, 3 * 4))
    streets = Plan(short_side=1024, long_side=2048, tile=1024, stride=512, scales=SEVEN, flip=True)
    assert [streets.working_hw(1024, 2048, scale) for scale in (0.5, 2.0)] == [
        *((512, 1024), (2048, 4096))
    ]
    assert streets.passes(1024, 2048) == 2 * sum((1, 2, 3, 2 * 4, 2 * 5, 3 * 6, 3 * 7))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tile": 512}, "belong together"),
        ({"tile": 512, "stride": 600}, "leaves gaps"),
        ({"tile": 512, "stride": 341, "windows": 2}, "not both"),
        ({"tile": 0, "stride": 1}, "tile must be at least 1"),
        ({"ensemble_size": 0}, "ensemble_size must be at least 1"),
        ({"long_side": 2048}, "give short_side too"),
        ({"scales": ()}, "different positive numbers"),
        ({"scales": (1.0, 1.0)}, "different positive numbers"),
        ({"scales": (0.0,)}, "different positive numbers"),
    ],
)
def test_unusable_plans_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Plan(**fields)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let values of a wrong type reach the plan, as without the type checks of the tests."""
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("field", [field.name for field in fields(Plan)])
@pytest.mark.parametrize("value", ["2", 480.5, [None], {}])
def test_a_value_of_a_wrong_type_is_refused_with_the_name_of_its_field(
    field: str, value: Any
) -> None:
    if field == "scales" and value in (480.5, {}):
        return  # one scale, and no scale
    with pytest.raises(InputError, match=f"^{field} must be .*, got {re.escape(repr(value))}$"):
        Plan(**{field: value})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("field", "value"),
    [("windows", True), ("windows", None), ("flip", 1), ("scales", True), ("scales", (1, False))],
)
def test_booleans_are_no_numbers_and_numbers_no_booleans(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{field} must be "):
        Plan(**{field: value})


@pytest.mark.usefixtures("unchecked")
def test_one_scale_a_list_and_numbers_of_numpy_are_accepted() -> None:
    for value in (2, 2.0, np.float32(2), [2], np.array([2.0])):
        plan: Any = Plan(scales=value)
        assert plan.scales == (2.0,)
        assert type(plan.scales[0]) is float
    plan = Plan(short_side=np.int64(64))
    assert plan == Plan(short_side=64)
    assert type(plan.short_side) is int


def test_an_error_names_fields_in_python_and_flags_on_the_command_line() -> None:
    with pytest.raises(PlanError, match=r"^batch_size must be at least 1, got 0$") as caught:
        Plan(batch_size=0)
    assert caught.value.for_flags() == "--batch-size must be at least 1, got 0"
    with pytest.raises(PlanError) as caught:
        Plan(released_windows=True)
    flags = "--released-windows needs square windows: set --windows to 2 or more"
    assert caught.value.for_flags() == flags
    assert str(caught.value) == flags.replace("--", "").replace("released-", "released_")


def test_an_ensemble_needs_a_method_that_adds_noise() -> None:
    several = Plan(ensemble_size=3)
    with pytest.raises(
        PlanError,
        match=r"^Brightness adds no noise, so all passes of an ensemble are equal: leave ensemble",
    ):
        several.for_model(model(Brightness))
    assert several.for_model(model(Jitter)) == several
    assert Plan(ensemble_size=1).for_model(model(Brightness)) == Plan()


@pytest.mark.parametrize(
    ("name", "uses_noise"),
    [
        ("few_shot on tiny", True),
        ("ddp depth", True),
        ("feature_head on tiny", False),
        ("vpd depth", False),
        ("evp depth", False),
        ("meta_prompts depth", False),
    ],
)
def test_methods_declare_whether_they_use_noise(name: str, uses_noise: bool) -> None:
    """Their outputs for two seeds differ if, and only if, they do."""
    dense = MODELS[name]().eval()
    assert dense.method.uses_noise == uses_noise
    image = images(1, 64, 64)
    with torch.inference_mode():
        one, other = (dense(Inputs(image), draws=Draws((seed,))).stack for seed in (0, 1))
    assert torch.equal(one, other) != uses_noise
