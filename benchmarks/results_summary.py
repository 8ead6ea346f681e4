"""Make the summary table at the top of docs/results.md, and draw the page's plots again.

Every score of the summary is copied from a table further down on the page. Nothing is measured.
Run the script after a block of the page has changed:

    python benchmarks/results_summary.py           # write the table and the plots
    python benchmarks/results_summary.py --quick   # print the table, write nothing
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ddp_rooms import steps_plot
from few_shot_rooms import shots_plot
from plots import Plot, write_plot
from pretraining_tables import curve_plot
from reporting import RESULTS, table, write_block
from summary_rows import EMBEDDED, ROWS, Cell, Row
from tables import TABLES

from diffsight.errors import InputError

HEAD = ("measured", "model", "baseline without an image", "weights", "command")
NO_BASELINE = "none"
DIGITS = 7  # shown of the hash of the weights


@dataclass(frozen=True)
class Section:
    """A part of the page: a marked block, or all text under a heading.

    Attributes:
        heading: heading above the part.
        text: text of the part.
        context: text of the whole section, searched for commands and weights as well.
    """

    heading: str
    text: str
    context: str

    @property
    def anchor(self) -> str:
        """The anchor of the heading, in the format of MyST and GitHub."""
        return re.sub(r"[^\w\- ]", "", self.heading.lower()).replace(" ", "-")


def sections_of(page: str) -> dict[str, Section]:
    """Return the parts of a page by heading or by name of the marked block."""
    parts = re.split(r"^#{2,3} (.+)$", page, flags=re.MULTILINE)
    sections = {}
    for heading, text in zip(parts[1::2], parts[2::2], strict=True):
        sections[heading] = Section(heading, text, text)
        for match in re.finditer(r"<!-- (.+) begin -->(.*?)<!-- \1 end -->", text, re.DOTALL):
            sections[match[1]] = Section(heading, match[2], text)
    return sections


def rows_of(text: str) -> Iterator[dict[str, str]]:
    """Yield the rows of all Markdown tables in a text, each as cells by name of the column."""
    head: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            head = []
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not head:
            head = cells
        elif set(line) - set("|-: "):
            yield dict(zip(head, cells, strict=True))


def look_up(cell: Cell, section: Section) -> str:
    """Return the score of a cell, without a paired difference in brackets.

    Raises:
        InputError: if the section does not have exactly one such cell.
    """
    first = cell.row.split(" | ")
    matches = [
        row[cell.column]
        for row in rows_of(section.text)
        if cell.column in row and list(row.values())[: len(first)] == first
    ]
    if len(matches) != 1:
        raise InputError(
            f"docs/results.md, {section.heading}: {len(matches)} cells in column {cell.column!r} "
            f"of row {cell.row!r}: correct the row in benchmarks/summary_rows.py"
        )
    return matches[0].partition(" (")[0]


def check_command(row: Row, section: Section) -> None:
    """Check that the section contains the row's command; it may have more options.

    Raises:
        InputError: if the section does not contain the command.
    """
    fences = re.findall(r"```bash\n(.*?)```", section.context, re.DOTALL)
    spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", section.context, flags=re.DOTALL))
    lines = [line for fence in fences for line in fence.splitlines()]
    commands = (" ".join(code.split()) for code in (*spans, *lines))
    if any(f"{command} ".startswith(f"{row.command} ") for command in commands):
        return
    raise InputError(
        f"docs/results.md, {section.heading}: has no command {row.command!r}: add it, or correct "
        "the row in benchmarks/summary_rows.py"
    )


def weights_of(row: Row, section: Section) -> str:
    """Return the first digits of the hash of the embedded model, or the name of another network.

    Raises:
        InputError: if the section does not name the weights.
    """
    if row.network != EMBEDDED:
        return row.network
    for text in (section.text, section.context):
        if match := re.search(r"[Ww]eights\s+([0-9a-f]{12})", text):
            return match[1][:DIGITS]
    raise InputError(
        f"docs/results.md, {section.heading}: names no weights of the embedded model: add "
        "'weights' and the first twelve digits of their hash"
    )


def report(page: str) -> str:
    """Return the summary table of a page.

    Raises:
        InputError: if the page lacks a section, a score, a command or the weights of a row.
    """
    sections, lines = sections_of(page), []
    for row in ROWS:
        if row.section not in sections:
            raise InputError(
                f"docs/results.md: has no section or block {row.section!r}: correct the row in "
                "benchmarks/summary_rows.py"
            )
        section = sections[row.section]
        baseline = NO_BASELINE
        if row.baseline is not None:
            baseline = f"{row.baseline.label} {look_up(row.baseline, section)}".strip()
        check_command(row, section)
        measured = f"[{row.measured}](#{section.anchor}), {row.score}"
        model = f"{row.model.label} {look_up(row.model, section)}"
        lines.append([measured, model, baseline, weights_of(row, section), f"`{row.command}`"])
    return f"{table(HEAD, lines)}\n\n`python benchmarks/results_summary.py`"


def plots(tables: Path) -> Sequence[Plot]:
    """Return all plots of the page, computed from the stored tables."""
    return (
        shots_plot(tables),
        curve_plot(tables / "pretraining_helps.csv"),
        steps_plot(tables / "ddp_rooms.csv"),
    )


def main() -> None:
    """Write the table into the page, and the plots next to it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="print the table, write nothing")
    args = parser.parse_args()
    text = report(RESULTS.read_text(encoding="utf-8"))
    if not args.quick:
        write_block(RESULTS, "summary", text)
        for plot in plots(TABLES):
            write_plot(plot)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
