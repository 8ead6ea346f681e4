"""Plans: size of the model input, windows, description, and refused values."""

import pytest

from diffsight.errors import InputError
from diffsight.inference.plan import Plan, ShortSide, short_side_px

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
