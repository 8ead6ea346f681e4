"""``suggest``, ``fold_disagreement`` and the forecast of the learning curve."""

import numpy as np
import pytest
from tests.support_benchmarks import DOCS, TABLES, block_of, import_script

from diffsight.adaptation.learning_curve import forecast_score
from diffsight.adaptation.suggest import (
    MAX_REPRESENTED,
    fold_disagreement,
    grid_average,
    grid_features,
    suggest,
)
from diffsight.errors import InputError


def groups(*sizes: int) -> np.ndarray:
    """Return features of groups of similar images, far from each other."""
    rng = np.random.default_rng(0)
    centres = 10 * np.eye(len(sizes))
    rows = [
        centre + rng.normal(0, 0.3, (n, len(sizes)))
        for centre, n in zip(centres, sizes, strict=True)
    ]
    return np.concatenate(rows)


def test_the_first_suggestion_is_of_the_largest_group_without_a_label() -> None:
    features = groups(10, 6, 3)  # images 0 to 9, 10 to 15, 16 to 18
    ranking = suggest(features, [0], count=3).ranking
    assert 10 <= ranking[0].image < 16
    assert 16 <= ranking[1].image < 19
    assert ranking[0].resembling == 5
    reasons = [one.reason for one in ranking[:2]]
    assert reasons[0] == "5 other unlabelled images resemble it more than any labelled image"
    known = "any labelled or earlier image"
    assert reasons[1] == f"2 other unlabelled images resemble it more than {known}"
    assert ranking[0].gain > ranking[1].gain > ranking[2].gain


def test_an_outlier_is_not_preferred_to_a_group() -> None:
    features = np.concatenate([groups(8, 8), [[-40.0, -40.0]]])
    ranking = suggest(features, [0], count=16).ranking
    assert 8 <= ranking[0].image < 16


def test_without_labels_the_most_central_image_of_a_group_is_first() -> None:
    line = np.array([[0.0], [1.0], [2.0], [3.0], [4.2], [5.0], [1.9]])
    first, second = suggest(line, [], count=2).ranking
    assert first.image == 2
    assert first.reason == "no image is labelled, and this one is the most typical"
    assert second.reason == "1 other unlabelled image resembles it more than any earlier image"
    (alone,) = suggest(np.array([[0.0], [9.0]]), [0], count=1).ranking
    assert alone.reason.startswith("it stands alone")


def test_every_unlabelled_image_is_ranked_once_and_no_labelled_one() -> None:
    ranking = suggest(groups(5, 5), [1, 7], count=100).ranking
    assert sorted(one.image for one in ranking) == [0, 2, 3, 4, 5, 6, 8, 9]


def test_copies_of_a_labelled_image_come_last() -> None:
    features = np.concatenate([groups(4, 4), groups(4, 4)[:1]])
    ranking = suggest(features, [0], count=100).ranking
    assert ranking[-1].image == 8
    assert ranking[-1].gain == 0
    assert ranking[-1].reason == "it is a copy of a labelled or earlier image"


def test_constant_features_and_equal_images_are_ranked() -> None:
    ranking = suggest(np.ones((4, 3)), [2], count=10).ranking
    assert [one.image for one in ranking] == [0, 1, 3]


@pytest.mark.parametrize("labelled", [[], [0], [0, 1]])
def test_few_images(labelled: list[int]) -> None:
    ranking = suggest(groups(1, 1), labelled).ranking
    assert {one.image for one in ranking} == {0, 1} - {*labelled}


def test_the_scale_of_a_feature_changes_nothing() -> None:
    features = groups(7, 5, 3)
    scaled = features * [1e-3, 1, 1e3] + [5, 0, -7]
    first, second = (suggest(one, [0], count=5).ranking for one in (features, scaled))
    assert [one.image for one in first] == [one.image for one in second]


def test_the_disagreement_decides_between_equal_gains_and_weight_0_ignores_it() -> None:
    square = np.array([[0.0, 0.0], [1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    disagreement = np.array([9.0, 0.1, 0.1, 0.4, 0.1])
    given = {"disagreement": disagreement, "count": 1}
    (best,) = suggest(square, [0], disagreement_weight=1.0, **given).ranking
    assert best.image == 3
    assert best.disagreement == pytest.approx(0.4)
    assert best.reason.endswith("disagree more on it than on 75 % of the others")
    (other,) = suggest(square, [0], disagreement_weight=0.0, **given).ranking
    (without,) = suggest(square, [0], count=1).ranking
    assert other.image == without.image == 1


def test_many_images_are_ranked_with_a_subset() -> None:
    rng = np.random.default_rng(1)
    features = np.concatenate([rng.normal(0, 1, (MAX_REPRESENTED, 2)), rng.normal(9, 1, (500, 2))])
    (first,) = suggest(features, [0], count=1).ranking
    assert first.image >= MAX_REPRESENTED
    assert 400 < first.resembling < 700


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"features": np.array([[np.nan, 1.0], [1.0, 2.0]])}, "finite"),
        ({"labelled": [2]}, "labelled image 2: there are 2 images"),
        ({"labelled": [-1]}, "labelled image -1"),
        ({"disagreement": np.array([1.0, np.inf])}, "finite numbers"),
        ({"disagreement_weight": -1.0}, "at least 0"),
        ({"disagreement_weight": np.nan}, "at least 0"),
        ({"history": [(0, 1.0)]}, "fewer than 1 labelled image"),
    ],
)
def test_wrong_arguments_are_refused(changes: dict, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        suggest(**{"features": np.eye(2), "labelled": [0], **changes})


@pytest.fixture(params=[True, False], ids=["classes", "values"])
def is_classes(request: pytest.FixtureRequest) -> bool:
    return request.param


def labelled_grids(is_classes: bool) -> tuple[list[np.ndarray], dict[int, np.ndarray]]:
    """Return 8 images whose label is the sign, or the double, of their first feature."""
    rng = np.random.default_rng(2)
    grids = [rng.normal(size=(64, 3)) for _ in range(8)]
    rows = [np.sign(x[:, :1]) if is_classes else 2 * x[:, :1] for x in grids]
    if is_classes:
        rows = [np.concatenate([x > 0, x <= 0], axis=1).astype(float) for x in rows]
    return grids, dict(enumerate(rows[:6]))


def test_heads_disagree_on_an_image_unlike_those_of_the_folds(is_classes: bool) -> None:
    grids, labels = labelled_grids(is_classes)
    labels[0] = labels[0][::-1]  # one image with other labels: its fold differs
    grids[7] = grids[7] * 5
    disagreement = fold_disagreement(grids, labels, is_classes=is_classes)
    assert disagreement is not None
    assert disagreement.shape == (8,)
    assert (disagreement >= 0).all()
    assert disagreement[7] > 1.5 * disagreement[6]


def test_equal_folds_agree(is_classes: bool) -> None:
    grids, labels = labelled_grids(is_classes)
    grids = [grids[0]] * 6 + grids[6:]
    labels = dict.fromkeys(range(6), labels[0])
    disagreement = fold_disagreement(grids, labels, is_classes=is_classes)
    assert disagreement == pytest.approx(np.zeros(8), abs=1e-6)


def test_the_unit_of_values_does_not_change_the_disagreement() -> None:
    grids, labels = labelled_grids(is_classes=False)
    metres = fold_disagreement(grids, labels, is_classes=False)
    millimetres = {i: 1000 * rows + 50 for i, rows in labels.items()}
    assert fold_disagreement(grids, millimetres, is_classes=False) == pytest.approx(metres)


def test_positions_without_a_label_are_not_used(is_classes: bool) -> None:
    grids, labels = labelled_grids(is_classes)
    expected = fold_disagreement(grids, labels, is_classes=is_classes)
    grids = [np.concatenate([x, x[:1]]) for x in grids[:6]] + grids[6:]
    gap = np.full((1, labels[0].shape[1]), np.nan)
    labels = {i: np.concatenate([rows, gap]) for i, rows in labels.items()}
    grids_of_all = fold_disagreement(grids, labels, is_classes=is_classes)
    assert grids_of_all is not None
    assert expected is not None
    # the features of all positions are standardised, so the heads differ a little
    assert grids_of_all[6:] == pytest.approx(expected[6:], rel=0.1)


def test_folds_need_two_labelled_images(is_classes: bool) -> None:
    grids, labels = labelled_grids(is_classes)
    assert fold_disagreement(grids, {0: labels[0]}, is_classes=is_classes) is None
    empty = {0: labels[0], 1: np.full_like(labels[1], np.nan)}
    assert fold_disagreement(grids, empty, is_classes=is_classes) is None
    two = {0: labels[0], 1: labels[1]}
    assert fold_disagreement(grids, two, is_classes=is_classes) is not None


def test_a_grid_averages_large_maps_and_repeats_small_ones() -> None:
    large = np.arange(16.0).reshape(1, 4, 4)
    assert grid_average(large, 2)[:, 0].tolist() == [2.5, 4.5, 10.5, 12.5]
    small = np.array([[[1.0, 2.0]]])
    assert grid_average(small, 4)[:, 0].tolist() == 4 * [1, 1, 2, 2]
    both = grid_features([large, np.concatenate([small, -small])], 4)
    assert both.shape == (16, 3)


def test_a_grid_leaves_unknown_pixels_out() -> None:
    maps = np.array([[[1.0, np.nan], [np.nan, np.nan]]])
    assert grid_average(maps, 1)[0, 0] == 1
    assert np.isnan(grid_average(maps, 2)[:, 0]).tolist() == [False, True, True, True]


def power_law(n: float) -> float:
    return 0.3 + 2 * n**-0.7


def test_the_forecast_of_a_power_law_is_close_and_gets_wider() -> None:
    history = [(n, power_law(n)) for n in (3, 4, 6, 8, 12)]
    forecast = forecast_score(history, higher_is_better=False)
    assert forecast is not None
    assert forecast.labelled_images == tuple(range(13, 25))
    for n, low, score, high in zip(
        forecast.labelled_images, forecast.low, forecast.score, forecast.high, strict=True
    ):
        assert low < power_law(n) < high
        assert score == pytest.approx(power_law(n), rel=0.05)
    widths = np.subtract(forecast.high, forecast.low)
    assert widths[-1] > 2 * widths[0]
    assert forecast_score(history, higher_is_better=False) == forecast


def test_a_higher_score_is_forecast_as_the_mirror_image() -> None:
    history = [(n, power_law(n)) for n in (3, 4, 6, 8, 12)]
    errors = forecast_score(history, higher_is_better=False)
    scores = forecast_score([(n, -score) for n, score in history], higher_is_better=True)
    assert errors is not None
    assert scores is not None
    assert scores.score == pytest.approx(np.negative(errors.score))
    assert scores.low == pytest.approx(np.negative(errors.high))


def test_the_intervals_contain_the_stated_fraction_of_simulated_scores() -> None:
    """Held-out scores are running means over the images, plus the noise of a training."""
    rng = np.random.default_rng(3)
    inside = []
    for _ in range(60):
        a, b, c = rng.uniform(0.3, 1), rng.uniform(0.5, 2), rng.uniform(0.3, 1)
        n = np.arange(1, 21)
        means = np.cumsum(rng.normal(0, 0.3, 20)) / n
        scores = a + b * n**-c + means + rng.normal(0, 0.02, 20)
        history = [(int(m), float(scores[m - 1])) for m in range(4, 11)]
        forecast = forecast_score(history, higher_is_better=False, labelled_images=[15, 20])
        assert forecast is not None
        inside += [
            low <= scores[m - 1] <= high
            for m, low, high in zip((15, 20), forecast.low, forecast.high, strict=True)
        ]
    assert 0.8 <= np.mean(inside) <= 0.99


def test_an_interval_stays_within_the_bounds_and_grows_with_the_level() -> None:
    history = [(3, 97.0), (4, 98.5), (5, 99.5)]
    options = {"higher_is_better": True, "bounds": (0.0, 100.0)}
    wide = forecast_score(history, level=0.9, **options)
    narrow = forecast_score(history, level=0.5, **options)
    assert wide is not None
    assert narrow is not None
    assert max(wide.high) <= 100
    assert wide.low[0] < narrow.low[0] < narrow.score[0] == wide.score[0]


def test_a_forecast_needs_three_numbers_of_images_with_a_finite_score() -> None:
    history = [(3, 1.0), (3, 0.9), (4, 0.8), (5, float("nan"))]
    assert forecast_score(history, higher_is_better=False) is None
    assert forecast_score([], higher_is_better=False) is None
    assert forecast_score([*history, (6, 0.7)], higher_is_better=False) is not None


def test_of_two_scores_for_one_number_of_images_the_last_one_counts() -> None:
    history = [(3, 9.0), (4, 0.8), (5, 0.7), (3, 1.0)]
    expected = forecast_score([(3, 1.0), *history[1:3]], higher_is_better=False)
    assert forecast_score(history, higher_is_better=False) == expected


@pytest.mark.parametrize("score", [0.0, 1.0, -2.0])
def test_equal_scores_have_a_finite_forecast(score: float) -> None:
    forecast = forecast_score([(n, score) for n in (3, 4, 5)], higher_is_better=True)
    assert forecast is not None
    assert np.isfinite([*forecast.low, *forecast.high]).all()


def test_wrong_levels_are_refused() -> None:
    with pytest.raises(InputError, match=r"level 1\.0"):
        forecast_score([], higher_is_better=True, level=1.0)


def test_suggest_passes_the_history_on() -> None:
    history = [(3, 5.0), (4, 6.0), (6, 7.0)]
    result = suggest(groups(3, 3), [0], history=history, higher_is_better=True)
    assert result.forecast == forecast_score(history, higher_is_better=True)


def test_the_results_page_has_the_tables_of_the_kept_draws() -> None:
    units = import_script("tables").read(TABLES / "suggest.csv")
    block = block_of(DOCS / "results.md", "suggest")
    assert block == import_script("suggest").report(units), "run benchmarks/suggest.py --report"
