"""Long commands print the remaining time, on a terminal and in a log file."""

import io
import time

import pytest
from rich.console import Console

from diffsight.cli import console


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list that holds the current time in seconds; the test changes it."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def run(
    monkeypatch: pytest.MonkeyPatch,
    clock: list[float],
    steps: list[float],
    total: int,
    *,
    is_terminal: bool = False,
    done: int = 0,
) -> str:
    """Return what a progress display prints; ``steps`` are the seconds of each step."""
    file = io.StringIO()
    fake = Console(file=file, force_terminal=is_terminal, width=200, legacy_windows=False)
    monkeypatch.setattr(console, "console", lambda: fake)
    with console.progress("predicting", total, done=done) as advance:
        for seconds in steps:
            clock[0] += seconds
            advance()
    return file.getvalue()


def test_a_log_file_gets_the_time_left_after_one_image_and_every_30_seconds(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    lines = run(monkeypatch, clock, [10.0] * 20, total=20).splitlines()
    assert lines == [
        "predicting: 1 of 20, about 3 min left",
        "predicting: 4 of 20, about 3 min left",
        "predicting: 7 of 20, about 2 min left",
        "predicting: 10 of 20, about 100 s left",
        "predicting: 13 of 20, about 70 s left",
        "predicting: 16 of 20, about 40 s left",
    ]


def test_a_short_command_logs_no_time_left(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    assert not run(monkeypatch, clock, [1.0] * 20, total=20)


def test_steps_of_an_earlier_run_do_not_change_the_estimate(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    text = run(monkeypatch, clock, [60.0], total=20, done=17)
    assert text == "predicting: 18 of 20, about 2 min left\n"


def test_a_terminal_shows_the_time_left_after_the_first_image(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    text = run(monkeypatch, clock, [20.0], total=10, is_terminal=True)
    assert "1/10" in text
    assert "0:03:00" in text
