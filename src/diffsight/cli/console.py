"""What commands print: a bar and lines on stderr, tables and JSON on stdout."""

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from diffsight.label_maps import clean_name

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@functools.cache
def console() -> "Console":
    """Return the one on stderr; lines that are written there do not break a bar."""
    from rich.console import Console

    return Console(stderr=True)


@contextlib.contextmanager
def progress(
    text: str, total: int | float | None = None, *, done: int = 0, counts: bool = True
) -> Iterator[Callable[..., None]]:
    """Show a bar where stderr is a terminal.

    Args:
        text: what is done.
        total: number of steps, if that is known.
        done: steps that were done before.
        counts: whether the number of steps is shown.

    Yields:
        What is called after every step, or after a number of them; keywords are those of rich's
        ``Progress.update``.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    count = (MofNCompleteColumn(),) if counts else ()
    columns = (TextColumn("{task.description}"), BarColumn(), *count, Remaining())
    with Progress(*columns, console=console(), disable=not console().is_terminal) as bars:
        row = bars.add_task(text, total=total, completed=done)

        def advance(steps: int = 1, **changes: Any) -> None:
            bars.update(row, advance=steps, **changes)

        yield advance


def write_line(line: str, to: "Console | None" = None) -> None:
    """Print a line as it is, whatever brackets and paths are in it; on stderr by default."""
    (to or console()).print(printable(line), markup=False, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """Return lines without control characters: names in files must not move the cursor."""
    return "\n".join(map(clean_name, text.split("\n")))


def write_table(table: "Table", *lines: str, width: int) -> None:
    """Print a table to stdout, and lines below it, which stay readable where the table is cut.

    Args:
        table: to be printed.
        lines: below it.
        width: columns where stdout is no terminal.
    """
    from rich.console import Console

    out = Console(file=sys.stdout)
    if not out.is_terminal:
        out = Console(file=sys.stdout, width=width)
    out.print(table)
    for line in lines:
        write_line(line, out)


def write_json(report: Any, indent: int | None = None) -> None:
    """Print JSON to stdout: a line, or an indented report."""
    sys.stdout.write(json.dumps(report, indent=indent) + "\n")
    sys.stdout.flush()
