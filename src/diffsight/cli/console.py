"""What commands print: a bar and lines on stderr, tables and JSON on stdout."""

import contextlib
import functools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from diffsight.formats.durations import duration
from diffsight.label_maps import clean_name

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn
    from rich.table import Table

LINE_EVERY_S = 30.0


@functools.cache
def console() -> "Console":
    """Return the one on stderr; lines that are written there do not break a bar."""
    from rich.console import Console

    return Console(stderr=True)


@contextlib.contextmanager
def progress(
    text: str, total: int | float | None = None, *, done: int = 0, counts: bool = True
) -> Iterator[Callable[..., None]]:
    """Show a bar where stderr is a terminal, else lines; both have the time left.

    A line comes after the first step of what takes longer than half a minute, and then every half
    minute.

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

    count = (MofNCompleteColumn(),) if counts else ()
    columns = (TextColumn("{task.description}"), BarColumn(), *count, _time_left())
    with Progress(*columns, console=console(), disable=not console().is_terminal) as bars:
        row = bars.add_task(text, total=total, completed=done, left_s=None)
        begin, said = time.monotonic(), -math.inf

        def advance(steps: int = 1, **changes: Any) -> None:
            nonlocal said
            bars.update(row, advance=steps, **changes)
            now, task = time.monotonic(), bars.tasks[row]
            if not counts or not task.total or task.completed <= done:
                return
            left_s = (now - begin) * (task.total - task.completed) / (task.completed - done)
            bars.update(row, left_s=left_s)
            if console().is_terminal or min(now - said, left_s) < LINE_EVERY_S:
                return
            said = now
            numbers = f"{task.completed:.0f} of {task.total:.0f}"
            write_line(f"{text}: {numbers}, about {duration(left_s)} left")

        yield advance


def _time_left() -> "ProgressColumn":
    """Return a column with the time left; that of rich has none before the second step."""
    from rich.progress import Task, TimeRemainingColumn
    from rich.text import Text

    class TimeLeft(TimeRemainingColumn):
        def render(self, task: Task) -> Text:
            left_s = task.fields["left_s"]
            if left_s is None or task.time_remaining is not None:
                return super().render(task)
            return Text(f"{timedelta(seconds=round(left_s))}", style="progress.remaining")

    return TimeLeft()


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
