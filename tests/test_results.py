"""The results page agrees with the stored tables, and its summary and plots with its sections."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from diffsight.errors import InputError
from tests.support_benchmarks import DOCS, TABLES, block_of, import_script

PAGE = DOCS / "results.md"
DESCRIPTION = "{http://purl.org/dc/elements/1.1/}description"
MAX_BYTES = 60_000
SMALL_PAGE = """# Results

## Depth of 10 rooms

Weights 0123456789ab.

<!-- depth begin -->

| method | RMSE, m | seconds |
| --- | --- | --- |
| VPD | 0.5 ± 0.1 (-0.4 ± 0.2) | 3 |
| mean map | 0.9 | |

`python benchmarks/depth.py
--seed 0`

<!-- depth end -->

## Speed

```bash
diffsight demo --out runs --seed 1
```
"""


@pytest.fixture(scope="module")
def summary() -> Any:
    return import_script("results_summary")


@pytest.fixture(scope="module")
def plots(summary: Any) -> Sequence[Any]:
    return summary.plots(TABLES)


@pytest.fixture
def small_row(summary: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that reduces the summary to one row, which fits ``SMALL_PAGE``."""
    cell = import_script("summary_rows").Cell
    row = import_script("summary_rows").Row(
        "depth",
        "depth, 10 rooms",
        "RMSE, m",
        cell("VPD", "RMSE, m", "VPD"),
        cell("mean map", "RMSE, m", "mean map"),
        "embedded model",
        "python benchmarks/depth.py",
    )
    return lambda **changes: monkeypatch.setattr(summary, "ROWS", (replace(row, **changes),))


def test_the_summary_has_the_scores_of_the_sections_below(summary: Any) -> None:
    made = summary.report(PAGE.read_text(encoding="utf-8"))
    assert block_of(PAGE, "summary") == made, "run benchmarks/results_summary.py"


def test_the_page_begins_with_the_summary() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.index("<!-- summary begin -->") < page.index("\n## ")


def test_a_row_has_score_baseline_weights_and_command(summary: Any, small_row: Any) -> None:
    small_row()
    row = summary.report(SMALL_PAGE).splitlines()[2]
    assert row == (
        "| [depth, 10 rooms](#depth-of-10-rooms), RMSE, m | VPD 0.5 ± 0.1 | mean map 0.9 | "
        "0123456 | `python benchmarks/depth.py` |"
    )


def test_a_row_without_saved_weights_or_baseline_names_its_network(
    summary: Any, small_row: Any
) -> None:
    small_row(network="from scratch", baseline=None)
    row = summary.report(SMALL_PAGE.replace("Weights 0123456789ab.", "")).splitlines()[2]
    assert "| none | from scratch |" in row


def test_the_command_of_a_row_can_be_in_a_code_block(summary: Any, small_row: Any) -> None:
    small_row(command="diffsight demo --out runs")
    page = SMALL_PAGE.replace("## Speed\n", "")
    assert "`diffsight demo --out runs`" in summary.report(page)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("| VPD |", "| EVP |", "0 cells in column 'RMSE, m' of row 'VPD'"),
        ("| mean map |", "| VPD | 0.4 | |\n| mean map |", "2 cells in column 'RMSE, m'"),
        ("| RMSE, m |", "| RMSE, cm |", "0 cells"),
        ("Weights 0123456789ab", "Weights unknown", "names no weights"),
        ("/depth.py", "/depth.pyc", "has no command 'python benchmarks/depth.py'"),
        ("depth begin", "other begin", "has no section or block 'depth'"),
    ],
)
def test_a_row_that_the_page_lacks_is_refused(
    summary: Any, small_row: Any, old: str, new: str, reason: str
) -> None:
    small_row()
    assert SMALL_PAGE.count(old) == 1
    with pytest.raises(InputError, match=re.escape(reason)):
        summary.report(SMALL_PAGE.replace(old, new))


def test_every_plot_of_the_page_shows_the_kept_scores(plots: Sequence[Any]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((\w+)\.svg\)", page)) == {plot.name for plot in plots}
    for plot in plots:
        assert plot.markdown in page
        path = DOCS / f"{plot.name}.svg"
        (description,) = ElementTree.parse(path).iter(DESCRIPTION)
        assert description.text == plot.description, "run benchmarks/results_summary.py"
        assert path.stat().st_size < MAX_BYTES


@pytest.mark.parametrize(
    ("number", "block"), [(0, "few_shot_shots"), (1, "pretraining_curve"), (2, "ddp_rooms")]
)
def test_a_plot_has_the_scores_of_the_table_above_it(
    plots: Sequence[Any], number: int, block: str
) -> None:
    points = re.findall(r"\d+: (\S+ ± \S+?)(?:;|$)", plots[number].description, re.MULTILINE)
    # points of the right panel show differences, which are not in the table
    differences = len(points) // 2 - 1 if block == "ddp_rooms" else 0
    text = block_of(PAGE, block)
    assert [point for point in points[: len(points) - differences] if point not in text] == []


def test_drawing_again_gives_the_same_opaque_picture(plots: Sequence[Any], tmp_path: Path) -> None:
    write_plot = import_script("plots").write_plot
    for plot in plots:
        path = write_plot(plot, tmp_path)
        drawn = path.read_bytes()
        assert write_plot(plot, tmp_path).read_bytes() == drawn
        assert len(drawn) < MAX_BYTES
        background = next(ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}path"))
        assert background.get("style") == "fill: #ffffff"


@pytest.mark.parametrize("part", ["tasks", "orderings"])
def test_the_few_shot_tables_are_those_of_the_kept_runs(part: str) -> None:
    for name, make in import_script("few_shot_rooms").BLOCKS[part].items():
        block = block_of(PAGE, name)
        assert block.startswith(make(TABLES)), f"run few_shot_rooms.py --report --parts {part}"


def test_the_first_edition_is_read_from_the_repository(tmp_path: Path) -> None:
    script = import_script("few_shot_rooms")
    for part, blocks in script.BLOCKS.items():
        name = f"few_shot_{part}.csv"
        (tmp_path / name).write_bytes((TABLES / name).read_bytes())
        for make in blocks.values():
            assert make(tmp_path) == make(TABLES)
