"""The page about the claims of the papers is computed from the stored result tables."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support_benchmarks import DOCS, TABLES, block_of, import_script


@pytest.fixture(scope="module")
def claims() -> Any:
    return import_script("claims")


def write_scores(claims: Any, folder: Path, scores: dict[str, list[float]], higher: bool) -> Any:
    """Write a result table with these scores; return the comparison of the rows a and b."""
    for name, values in scores.items():
        for repeat, score in enumerate(values):
            path = folder / "units" / "task" / name / f"rep{repeat}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"score": score, "higher_is_better": higher}))
            settings = {"weights": "0123456789abcdef"}
            path.with_name("settings.json").write_text(json.dumps(settings))
    import_script("tables").pack(folder / "units", folder / "scores.csv")
    return claims.Comparison("depth", "scores", "task/a", "task/b")


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([1.0, 1.2, 0.9], "held"),
        ([-1.0, -1.2, -0.9], "reversed"),
        ([1.0, -1.0, 0.5], "not seen"),
        ([0.0, 0.0, 0.0], "not seen"),
        ([1.0], "not yet measured"),
        ([], "not yet measured"),
    ],
)
def test_the_verdict_depends_on_the_interval_of_the_difference(
    claims: Any, gains: list, expected: str
) -> None:
    assert claims.verdict(gains) == expected


@pytest.mark.parametrize(("higher", "expected"), [(True, "held"), (False, "reversed")])
def test_scores_are_paired_by_repeat_and_signs_follow_the_better_direction(
    claims: Any, higher: bool, expected: str, tmp_path: Path
) -> None:
    # the fourth score of a has no partner
    scores = {"a": [2.0, 5.1, 9.0, 7.0], "b": [1.0, 4.0, 8.0]}
    comparison = write_scores(claims, tmp_path, scores, higher)
    result = claims.compare(comparison, tmp_path)
    assert (result.verdict, result.weights) == (expected, "0123456789ab")
    sign = "+" if higher else "-"
    assert result.text == f"depth 5.367 / 4.333, {sign}1.033 ± 0.143: {expected}"


def test_a_comparison_without_kept_units_is_not_yet_measured(claims: Any, tmp_path: Path) -> None:
    comparison = write_scores(claims, tmp_path, {"a": [1.0, 2.0]}, higher=True)
    assert claims.compare(comparison, tmp_path) == claims.Result("not yet measured")
    without_table = claims.Comparison("depth", "missing", "task/a", "task/b")
    assert claims.compare(without_table, tmp_path) == claims.Result("not yet measured")


def test_a_claim_about_several_tasks_says_in_how_many_it_held(claims: Any) -> None:
    results = [claims.Result(verdict) for verdict in ("held", "reversed", "held")]
    assert claims.summary(results) == "held in 2, reversed in 1 of 3"
    assert claims.summary(results[:1]) == "held"
    assert claims.summary([claims.Result("not yet measured")] * 3) == "not yet measured"


def test_every_row_of_a_claim_is_in_the_kept_table(claims: Any) -> None:
    comparisons = [
        comparison
        for of_paper in claims.CLAIMS.values()
        for claim in of_paper
        for comparison in claim.comparisons
    ]
    assert comparisons
    for comparison in comparisons:
        paths = [
            TABLES / f"{comparison.table}{edition}.csv" for edition in ("", claims.FIRST_EDITION)
        ]
        tables = [claims.units_in(path) for path in paths if path.exists()]
        for folder in (comparison.ahead, comparison.behind):
            assert not tables or any(claims.rows_of(units, folder) for units in tables), folder


def test_a_comparison_without_runs_of_the_shipped_model_is_that_of_the_first_edition(
    claims: Any, tmp_path: Path
) -> None:
    comparison = write_scores(claims, tmp_path, {"a": [0.5, 0.6], "b": [0.1, 0.3]}, higher=True)
    shipped = claims.compare(comparison, tmp_path)
    (tmp_path / "scores.csv").rename(tmp_path / f"scores{claims.FIRST_EDITION}.csv")
    claims.units_in.cache_clear()
    earlier = claims.compare(comparison, tmp_path)
    assert earlier.text == f"{shipped.text} (first edition)"
    assert earlier.verdict == shipped.verdict


def test_the_page_has_the_tables_that_the_script_makes(claims: Any) -> None:
    block = block_of(DOCS / "claims.md", "claims")
    assert block == claims.report(TABLES), "run benchmarks/claims.py"
