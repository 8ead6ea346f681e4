"""The table of the papers' claims is computed from the kept results."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
PAGE = BENCHMARKS.parent / "docs" / "claims.md"


@pytest.fixture(scope="module")
def claims() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)  # its modules import each other by their bare names
        yield importlib.import_module("claims")


def write_scores(claims: Any, folder: Path, scores: dict[str, list[float]], higher: bool) -> Any:
    """Keep one unit for each score and return the comparison of the rows `a` and `b`."""
    for name, values in scores.items():
        for repeat, score in enumerate(values):
            path = folder / "units" / "task" / name / f"rep{repeat}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"score": score, "higher_is_better": higher}))
            settings = {"weights": "0123456789abcdef"}
            path.with_name("settings.json").write_text(json.dumps(settings))
    importlib.import_module("tables").pack(folder / "units", folder / "made.csv")
    return claims.Comparison("depth", "made", "task/a", "task/b")


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
def test_the_verdict_follows_from_the_interval(claims: Any, gains: list, expected: str) -> None:
    assert claims.verdict(gains) == expected


@pytest.mark.parametrize(("higher", "expected"), [(True, "held"), (False, "reversed")])
def test_scores_are_paired_by_repeat_in_the_direction_of_the_measure(
    claims: Any, higher: bool, expected: str, tmp_path: Path
) -> None:
    scores = {"a": [2.0, 5.1, 9.0, 7.0], "b": [1.0, 4.0, 8.0]}  # the fourth has no partner
    comparison = write_scores(claims, tmp_path, scores, higher)
    result = claims.compare(comparison, tmp_path)
    assert (result.verdict, result.weights) == (expected, "0123456789ab")
    sign = "+" if higher else "-"
    assert result.text == f"depth 5.367 / 4.333, {sign}1.033 ± 0.143: {expected}"


def test_a_comparison_without_kept_units_is_not_yet_measured(claims: Any, tmp_path: Path) -> None:
    comparison = write_scores(claims, tmp_path, {"a": [1.0, 2.0]}, higher=True)
    assert claims.compare(comparison, tmp_path) == claims.Result("not yet measured")
    elsewhere = claims.Comparison("depth", "missing", "task/a", "task/b")
    assert claims.compare(elsewhere, tmp_path) == claims.Result("not yet measured")


def test_verdicts_of_several_tasks_are_counted(claims: Any) -> None:
    results = [claims.Result(word) for word in ("held", "reversed", "held")]
    assert claims.summary(results) == "held in 2, reversed in 1 of 3"
    assert claims.summary(results[:1]) == "held"
    assert claims.summary([claims.Result("not yet measured")] * 3) == "not yet measured"


def test_every_row_of_a_claim_is_in_the_kept_table(claims: Any) -> None:
    comparisons = [
        c for some in claims.CLAIMS.values() for claim in some for c in claim.comparisons
    ]
    assert comparisons
    for comparison in comparisons:
        path = BENCHMARKS / "tables" / f"{comparison.table}.csv"
        for folder in (comparison.ahead, comparison.behind):
            assert not path.exists() or claims.rows_of(claims.units_in(path), folder), folder


def test_the_page_has_the_tables_that_the_script_makes(claims: Any) -> None:
    block = PAGE.read_text(encoding="utf-8").split("<!-- claims begin -->")[1]
    made = claims.report(BENCHMARKS / "tables")
    assert block.split("<!-- claims end -->")[0].strip() == made, "run benchmarks/claims.py"
