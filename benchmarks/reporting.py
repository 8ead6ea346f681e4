"""What benchmarks share when they write docs/results.md: intervals, tables, a marked place."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffsight.benchmark.statistics import summarise
from diffsight.datasets.files import replacing
from diffsight.errors import InputError

RESULTS = Path(__file__).parent.parent / "docs" / "results.md"


def cell(scores: dict[int, float], reference: dict[int, float], decimals: int) -> str:
    """Mean and interval, and the paired difference to the reference with its own."""
    if not scores:
        return ""
    text = interval(list(scores.values()), f".{decimals}f")
    both = sorted(scores.keys() & reference.keys())
    if scores is reference or not both:
        return text
    return f"{text} ({interval([scores[s] - reference[s] for s in both], f'+.{decimals}f')})"


def interval(values: Sequence[float], form: str) -> str:
    """Mean and half of its 95 % interval, in a form such as ``+.3f``."""
    found = summarise(np.array(values))
    mean, half = f"{found.mean:{form}}", found.ci95
    return mean if half is None else f"{mean} ± {half:{form.lstrip('+')}}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_block(path: Path, name: str, text: str) -> None:
    """Put ``text`` between the two marker comments of ``name``; without any, at the end.

    Raises:
        InputError: if only one of the two markers is there.
    """
    begin, end = f"<!-- {name} begin -->", f"<!-- {name} end -->"
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    if begin not in page and end not in page:
        page = f"{page.rstrip()}\n\n{begin}\n{end}\n".lstrip()
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise InputError(f"{path}: needs both {begin} and {end}, in this order: mend the page")
    with replacing(path) as partial:
        partial.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write at once or not at all."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(data), encoding="utf-8")


def claim_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Let a folder hold results of one setting only.

    Raises:
        InputError: if it holds those of another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "settings.json"
    plain = json.loads(json.dumps(settings))
    if not path.exists():
        write_json(path, plain)
    old = json.loads(path.read_text(encoding="utf-8"))
    differing = [key for key in plain if old.get(key) != plain[key]]
    if differing:
        raise InputError(
            f"{folder}: holds results of other settings (differing: {', '.join(differing)}): "
            "give another --out, or delete it"
        )


def say(text: str) -> None:
    """Progress, on stderr at once."""
    sys.stderr.write(text)
    sys.stderr.flush()
