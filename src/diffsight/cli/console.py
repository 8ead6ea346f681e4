"""Output of commands: progress bars and log lines on stderr, tables and JSON on stdout."""

import contextlib
import functools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from diffsight.formats.durations import format_duration
from diffsight.label_maps import clean_name

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn
    from rich.table import Table

LINE_EVERY_S = 30.0


@functools.cache
def console() -> "Console":
    """Return the console of stderr, which can write lines above a progress bar."""
    from rich.console import Console

    return Console(stderr=True)


@contextlib.contextmanager
def progress(
    text: str, total: int | float | None = None, *, done: int = 0, counts: bool = True
) -> Iterator[Callable[..., None]]:
    """Show the progress and the time left: as a bar on a terminal, else as lines on stderr.

    Work that takes longer than half a minute prints a line after the first step, and then every
    half minute.

    Args:
        text: description of the work.
        total: number of steps; None if unknown.
        done: number of steps that an earlier run finished.
        counts: whether the number of steps is shown.

    Yields:
        Function to call after one or more steps; its keyword arguments are those of rich's
        ``Progress.update``.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    count = (MofNCompleteColumn(),) if counts else ()
    columns = (TextColumn("{task.description}"), BarColumn(), *count, _time_left())
    with Progress(*columns, console=console(), disable=not console().is_terminal) as bars:
        row = bars.add_task(text, total=total, completed=done, left_s=None)
        begin, last_line = time.monotonic(), -math.inf

        def advance(steps: int = 1, **changes: Any) -> None:
            nonlocal last_line
            bars.update(row, advance=steps, **changes)
            now, task = time.monotonic(), bars.tasks[row]
            if not counts or not task.total or task.completed <= done:
                return
            left_s = (now - begin) * (task.total - task.completed) / (task.completed - done)
            bars.update(row, left_s=left_s)
            if console().is_terminal or min(now - last_line, left_s) < LINE_EVERY_S:
                return
            last_line = now
            numbers = f"{task.completed:.0f} of {task.total:.0f}"
            write_line(f"{text}: {numbers}, about {format_duration(left_s)} left")

        yield advance


def _time_left() -> "ProgressColumn":
    """Return a column with the time left; the one of rich is empty before the second step."""
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
    """Print a line without rich's markup and highlighting; on stderr by default."""
    (to or console()).print(printable(line), markup=False, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """Return a text without control characters, which could move the cursor."""
    return "\n".join(map(clean_name, text.split("\n")))


def write_table(table: "Table", *lines: str, width: int) -> None:
    """Print a table and lines below it to stdout.

    Args:
        table: table to print.
        lines: lines below the table; they are not cut to its width.
        width: width in characters if stdout is not a terminal.
    """
    from rich.console import Console

    out = Console(file=sys.stdout)
    if not out.is_terminal:
        out = Console(file=sys.stdout, width=width)
    out.print(table)
    for line in lines:
        write_line(line, out)


def write_json(report: Any, indent: int | None = None) -> None:
    """Print JSON to stdout, on one line or indented."""
    sys.stdout.write(json.dumps(report, indent=indent) + "\n")
    sys.stdout.flush()
