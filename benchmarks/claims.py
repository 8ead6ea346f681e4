"""Compare the claims of the five papers with the kept measurements.

The claims are those of ``paper_claims.py``. The script reads the units in ``benchmarks/tables/``,
pairs units of the same training images or seed, computes a verdict for every comparison, and writes
the tables into docs/claims.md. It runs no training.

    python benchmarks/claims.py                 # write docs/claims.md
    python benchmarks/claims.py --report PAGE   # write another page
    python benchmarks/claims.py --quick         # print the tables, write nothing
"""

import argparse
import functools
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from few_shot_rooms import OLD_NAMES
from paper_claims import CLAIMS, Claim, Comparison
from pretrained import FROM_SCRATCH, fingerprint, folder_of
from reporting import interval, table, write_block
from tables import TABLES, Units, read

from diffsight.benchmark.statistics import paired_difference
from diffsight.errors import InputError

PAGE = Path(__file__).parent.parent / "docs" / "claims.md"
HELD, NOT_SEEN, REVERSED, MISSING = "held", "not seen", "reversed", "not yet measured"
# weights of units that do not name them, by the units' `conditions`
WEIGHTS = {"e685a65d0fcf0498": "7c2c23eaaf51"}


@dataclass(frozen=True)
class Result:
    """A comparison as it was measured.

    Attributes:
        verdict: held, not seen, reversed or not yet measured.
        text: scores, difference and verdict.
        weights: of the embedded model, their first digits; empty if nothing was measured.
    """

    verdict: str
    text: str = ""
    weights: str = ""


def verdict(gains: Sequence[float]) -> str:
    """Return the verdict of paired differences, which are positive in the paper's direction."""
    if len(gains) < 2:
        return MISSING
    difference = paired_difference(np.array(gains), np.zeros(len(gains)))
    assert difference.interval is not None
    low, high = difference.interval
    return HELD if low > 0 else REVERSED if high < 0 else NOT_SEEN


def rows_of(units: Units, folder: str) -> Units:
    """Return the units of a folder by file name; kept ones may have the method's old name."""
    found = {}
    news = {new.replace(":", "+"): old for new, old in OLD_NAMES.items()}
    for name in (*(folder.replace(f"/{new}/", f"/{old}/") for new, old in news.items()), folder):
        prefix = f"{name}/"
        found |= {key.removeprefix(prefix): units[key] for key in units if key.startswith(prefix)}
    return found


def weights_of(units: Sequence[dict[str, Any]]) -> str:
    """Return the first digits of the weights that all units were measured with.

    Raises:
        InputError: if the units were not measured with one set of weights, or it is not recorded.
    """
    found = {
        unit.get("settings", {}).get("weights") or WEIGHTS.get(unit.get("conditions", ""))
        for unit in units
    }
    if len(found) != 1 or None in found:
        raise InputError(
            "units of one claim have several weights, or weights that are not recorded: measure "
            "them again, or add their conditions to WEIGHTS in benchmarks/claims.py"
        )
    return str(found.pop())[:12]


def compare(comparison: Comparison, tables: Path) -> Result:
    """Return what the kept units say about a comparison."""
    units = units_in(tables / f"{comparison.table}.csv")
    ahead, behind = (rows_of(units, folder) for folder in (comparison.ahead, comparison.behind))
    pairs = [(ahead[name], behind[name]) for name in sorted(ahead.keys() & behind.keys())]
    gains = [
        (one["score"] - other["score"]) * (1 if one["higher_is_better"] else -1)
        for one, other in pairs
    ]
    if (word := verdict(gains)) == MISSING:
        return Result(MISSING)
    columns = zip(*pairs, strict=True)
    means = [sum(unit["score"] for unit in column) / len(pairs) for column in columns]
    decimals = min(6, max(0, 3 - math.floor(math.log10(max(*means, 1e-6)))))  # four digits
    scores = " / ".join(f"{mean:.{decimals}f}" for mean in means)
    text = f"{comparison.label} {scores}, {interval(gains, f'+.{decimals}f')}: {word}"
    return Result(word, text, weights_of([unit for pair in pairs for unit in pair]))


@functools.cache
def units_in(path: Path) -> Units:
    """Return the units of a kept table, read once."""
    return read(path)


def summary(results: Sequence[Result]) -> str:
    """Return the verdict of the only comparison, or the number of comparisons with each verdict."""
    counts = Counter(result.verdict for result in results)
    if len(results) == 1 or counts[MISSING] == len(results):
        return results[0].verdict
    order = (HELD, NOT_SEEN, REVERSED, MISSING)
    words = ", ".join(f"{word} in {counts[word]}" for word in order if counts[word])
    return f"{words} of {len(results)}"


def results_of(claim: Claim, tables: Path) -> list[Result]:
    """Return the results of a claim's comparisons; a claim without any is not yet measured."""
    return [compare(one, tables) for one in claim.comparisons] or [Result(MISSING)]


def row(claim: Claim, results: Sequence[Result]) -> list[str]:
    """Return the row of a claim."""
    verdicts = {result.verdict for result in results}
    reason = claim.reason
    if verdicts == {HELD}:
        reason = ""
    elif verdicts == {MISSING} and not reason:
        names = sorted({one.table for one in claim.comparisons})
        reason = f"No such runs are kept in `benchmarks/tables/{names[0]}.csv` yet."
    measured = "<br>".join(result.text for result in results if result.text)
    cells = [claim.source, claim.ahead, claim.behind, claim.figures, measured]
    return [*cells, summary(results), reason]


def report(tables: Path) -> str:
    """Return the summary and one table for each paper."""
    shipped = fingerprint(folder_of("tiny"))[:12]
    counts, parts = [], []
    for paper, claims in CLAIMS.items():
        results = [results_of(claim, tables) for claim in claims]
        flat = [result for some in results for result in some if result.text]
        words = Counter(result.verdict for result in flat)
        tested = sum(any(result.text for result in some) for some in results)
        counts.append([paper, *map(str, (len(claims), tested, len(flat)))])
        counts[-1] += [str(words[word]) for word in (HELD, NOT_SEEN, REVERSED)]
        head = ["where", "ahead in the paper", "behind", "its figures", "measured here"]
        body = [row(claim, some) for claim, some in zip(claims, results, strict=True)]
        parts.append(f"## {paper}\n\n{table([*head, 'verdict', 'reason'], body)}")
        for weights in sorted({result.weights for result in flat}):
            if weights == FROM_SCRATCH:
                parts.append("Measured from scratch, without the embedded model.")
                continue
            age = "shipped now" if weights == shipped else f"older than those shipped, {shipped}"
            parts.append(f"Measured with the embedded model's weights {weights} ({age}).")
    total = [sum(int(line[column]) for line in counts) for column in range(1, 7)]
    head = ["paper", "claims", "measured", "comparisons", HELD, NOT_SEEN, REVERSED]
    first = table(head, [*counts, ["all", *map(str, total)]])
    return "\n\n".join([f"## Summary\n\n{first}", *parts, "`python benchmarks/claims.py`"])


def main() -> None:
    """Print the tables and write them into the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", type=Path, default=TABLES, help="folder of the kept tables")
    parser.add_argument("--report", type=Path, default=PAGE, help="page to write the tables into")
    parser.add_argument("--quick", action="store_true", help="test run: no page is written")
    args = parser.parse_args()
    text = report(args.tables)
    if not args.quick:
        write_block(args.report, "claims", text)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
