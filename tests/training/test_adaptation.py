"""How an adaptation shares out its time and its images."""

from diffsight.training.adaptation import LEAST_STEPS, shared_out
from diffsight.training.few_shot import folds_of


def test_time_that_a_method_cannot_use_is_the_others() -> None:
    took = {"features": 0.001, "concepts": 0.1}  # features would need 1.5 s a training
    plan = shared_out(211.5, took, folds=3, final=True)
    assert plan == {"features": 1500, "concepts": 517}  # (211.5 - 3 x 1.5) / 4 / 0.1
    alike = dict.fromkeys(took, 0.1)
    assert shared_out(70.0, alike, folds=3, final=True) == dict.fromkeys(took, 100)
    assert shared_out(7.0, alike, folds=3, final=True) == dict.fromkeys(took, LEAST_STEPS)
    assert shared_out(60.0, alike, folds=1, final=False) == dict.fromkeys(took, 300)
    assert shared_out(10.0, {"concepts": 0.1}, folds=0, final=True) == {"concepts": 100}


def test_one_picture_under_two_names_is_in_one_fold() -> None:
    folds = list(folds_of(["a", "a", "b", "c", "c", "d"], 3))
    assert [asked for _, asked in folds] == [[0, 1, 5], [2], [3, 4]]
    assert all(sorted(known + asked) == list(range(6)) for known, asked in folds)
