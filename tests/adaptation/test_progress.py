"""The time budget is converted to a number of training steps for each method."""

from diffsight.adaptation.progress import MIN_STEPS, plan_steps

MOST = {"feature_head": 1500, "few_shot": 2000}


def test_time_that_a_method_cannot_use_goes_to_the_others() -> None:
    seconds = {"feature_head": 0.001, "few_shot": 0.1}  # feature_head needs 1.5 s a training
    plan = plan_steps(211.5, seconds, MOST, 3, True)
    assert plan == {"feature_head": 1500, "few_shot": 517}  # (211.5 - 3 x 1.5) / 4 / 0.1


def test_methods_with_equal_cost_get_the_same_number_of_steps() -> None:
    alike = dict.fromkeys(MOST, 0.1)
    assert plan_steps(70.0, alike, MOST, 3, True) == dict.fromkeys(MOST, 100)
    assert plan_steps(7.0, alike, MOST, 3, True) == dict.fromkeys(MOST, MIN_STEPS)
    assert plan_steps(60.0, alike, MOST, 1, False) == dict.fromkeys(MOST, 300)
    assert plan_steps(10.0, {"few_shot": 0.1}, MOST, 0, True) == {"few_shot": 100}
