"""Functions for scripts that write docs/results.md: intervals, tables, marked blocks of text."""

import argparse
import json
import re
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from diffsight.atomic import replacing
from diffsight.benchmark.statistics import summarise
from diffsight.errors import InputError

RESULTS = Path(__file__).parent.parent / "docs" / "results.md"


def cell(scores: dict[int, float], reference: dict[int, float], decimals: int) -> str:
    """Return mean ± 95 % interval as text, with the paired difference to a reference in brackets.

    Args:
        scores: scores by repeat; if there are none, the text is empty.
        reference: reference scores by repeat; only the repeats in both are compared.
        decimals: digits after the point.
    """
    if not scores:
        return ""
    text = interval(list(scores.values()), f".{decimals}f")
    both = sorted(scores.keys() & reference.keys())
    if scores is reference or not both:
        return text
    return f"{text} ({interval([scores[s] - reference[s] for s in both], f'+.{decimals}f')})"


def interval(values: Sequence[float], form: str) -> str:
    """Return the text ``mean ± half of its 95 % interval``, in a number format such as ``+.3f``."""
    summary = summarise(np.array(values))
    mean, half = f"{summary.mean:{form}}", summary.ci95
    return mean if half is None else f"{mean} ± {half:{form.lstrip('+')}}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def paragraph(text: str) -> str:
    """Return a paragraph with lines of at most 120 characters."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def write_block(path: Path, name: str, text: str) -> None:
    """Replace the text between the two marker comments of ``name``; append the block if missing.

    Several processes may write blocks of one page at the same time.

    Raises:
        InputError: if the page has only one of the two markers.
    """
    begin, end = f"<!-- {name} begin -->", f"<!-- {name} end -->"
    with FileLock(Path(tempfile.gettempdir()) / f"diffsight-{path.name}.lock"):
        _write_block(path, begin, end, text)


def _write_block(path: Path, begin: str, end: str, text: str) -> None:
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    if begin not in page and end not in page:
        page = f"{page.rstrip()}\n\n{begin}\n{end}\n".lstrip()
    before, has_begin, rest = page.partition(begin)
    _, has_end, after = rest.partition(end)
    if not (has_begin and has_end):
        raise InputError(f"{path}: a block needs both {begin} and {end}, in this order: add them")
    write_text(path, f"{before}{begin}\n\n{text}\n\n{end}{after}")


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(data))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def claim_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Record the settings of the results in a folder, so that others cannot be mixed with them.

    Raises:
        InputError: if the folder has results of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "settings.json"
    as_json = json.loads(json.dumps(settings))
    if not path.exists():
        write_json(path, as_json)
    old = json.loads(path.read_text(encoding="utf-8"))
    differing = [key for key in as_json if old.get(key) != as_json[key]]
    if differing:
        raise InputError(
            f"{folder}: has results of other settings (differing: {', '.join(differing)}): "
            "give another --out (and another --table, if the script has that option)"
        )


def shard(text: str) -> tuple[int, int]:
    """Return I and N of the option ``--shard I/N``.

    Raises:
        argparse.ArgumentTypeError: if there is no such shard.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        reason = f"{text}: give I/N with I from 0 to N - 1, such as 0/2"
        raise argparse.ArgumentTypeError(reason)
    return int(match[1]), int(match[2])


def say(text: str) -> None:
    """Write a text about the progress to stderr, without a buffer."""
    sys.stderr.write(text)
    sys.stderr.flush()
