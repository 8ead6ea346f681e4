"""Pages of methods have the same sections, and their numbers are on the results pages."""

import inspect
import re
from pathlib import Path

import pytest

from diffsight import recipes
from diffsight.adaptation.candidates import SHORT_NAMES

DOCS = Path(__file__).parent.parent / "docs"
SECTIONS = [
    "What it does",
    "Parts",
    "Options",
    "Use",
    "Recipes",
    "Checkpoints",
    "Results",
    "Differences",
]
NUMBER = re.compile(r"\d+\.\d+")


def read(name: str) -> str:
    return (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8")


def section(page: str, title: str) -> str:
    return page.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of all table rows, without header rows and separator lines."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = [i for i, row in enumerate(cells) if set("".join(row)) <= set("-: ")]
    return [row for i, row in enumerate(cells) if i not in rules and i + 1 not in rules]


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_method_pages_have_the_same_sections_and_begin_with_an_example(name: str) -> None:
    page = read(name)
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == SECTIONS
    assert "```" in page.split("\n## ")[0]


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_documented_defaults_are_those_of_the_constructor(name: str) -> None:
    parameters = inspect.signature(SHORT_NAMES[name]).parameters
    for options, default, *_ in rows(section(read(name), "Options")):
        value = re.match(r"`([^`]*)`|(-?[\d.]+)$", default.partition(";")[0].partition(",")[0])
        names = [option for option in re.findall(r"`(\w+)`", options) if option in parameters]
        if (
            len(names) == 1
            and value
            and parameters[names[0]].default is not inspect.Parameter.empty
        ):
            stated = (value[1] or value[2]).strip('"')
            assert stated == str(parameters[names[0]].default).strip("'"), names[0]


def published_figures() -> set[str]:
    """Return all decimal numbers of docs/results.md and docs/claims.md."""
    pages = "".join((DOCS / f"{page}.md").read_text("utf-8") for page in ("results", "claims"))
    return set(NUMBER.findall(pages))


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_measured_numbers_are_on_the_results_or_claims_page(name: str) -> None:
    published = published_figures()
    results = section(read(name), "Results")
    cells = [row[2] for row in rows(results)]
    assert cells
    assert all("measured here" in row for row in results.splitlines() if row.startswith("| row |"))
    for cell in cells:
        assert cell == "not measured here" or set(NUMBER.findall(cell)) <= published, cell
        assert cell == "not measured here" or NUMBER.search(cell), cell
    assert re.search(r"`python\s+benchmarks/|`diffsight ", results)


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_recipes_that_a_page_names_exist(name: str) -> None:
    named = re.findall(r"`((?:\w+)/(?:\w+))`", section(read(name), "Recipes"))
    groups = {recipe.partition("/")[0] for recipe in recipes.names()}
    named = [one for one in named if one.partition("/")[0] in groups and not one.endswith("ROW")]
    assert set(named) <= set(recipes.names())


def test_numbers_of_the_readme_are_on_the_results_or_claims_page() -> None:
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    measured = rows(section(readme, "Measured"))
    published = published_figures()
    assert len(measured) > 5
    for title, model, baseline, command in measured:
        assert set(NUMBER.findall(model + baseline)) <= published, title
        assert command.startswith(("`python benchmarks/", "`diffsight "))
