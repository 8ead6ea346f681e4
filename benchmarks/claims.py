"""Compare the claims of the five papers with the stored measurements.

``paper_claims.py`` lists the claims. This script reads the scores in ``benchmarks/tables/`` and
pairs those with the same training images or the same seed. It computes a verdict for every
comparison, and writes the tables into docs/claims.md. It runs no training.

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
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from few_shot_rooms import FIRST_EDITION
from paper_claims import CLAIMS, Claim, Comparison
from pretrained import FROM_SCRATCH, fingerprint, folder_of
from reporting import interval, table, write_block
from tables import TABLES, Units, read, weights_of

from diffsight.benchmark.statistics import paired_difference
from diffsight.errors import InputError

PAGE = Path(__file__).parent.parent / "docs" / "claims.md"
HELD, NOT_SEEN, REVERSED, MISSING = "held", "not seen", "reversed", "not yet measured"


@dataclass(frozen=True)
class Result:
    """The result of a comparison.

    Attributes:
        verdict: held, not seen, reversed or not yet measured.
        text: scores, difference and verdict, as shown in the table.
        weights: first digits of the hash of the embedded model; empty if nothing was measured.
    """

    verdict: str
    text: str = ""
    weights: str = ""


def verdict(gains: Sequence[float]) -> str:
    """Return the verdict for paired differences, which are positive if the paper agrees."""
    if len(gains) < 2:
        return MISSING
    difference = paired_difference(np.array(gains), np.zeros(len(gains)))
    assert difference.interval is not None
    low, high = difference.interval
    return HELD if low > 0 else REVERSED if high < 0 else NOT_SEEN


def rows_of(units: Units, folder: str) -> Units:
    """Return the units of a folder by file name."""
    prefix = f"{folder}/"
    return {key.removeprefix(prefix): units[key] for key in units if key.startswith(prefix)}


def compare(comparison: Comparison, tables: Path) -> Result:
    """Return the result of a comparison, of the first edition if the shipped one has no runs."""
    result = compare_in(comparison, tables / f"{comparison.table}.csv")
    if result.verdict != MISSING:
        return result
    earlier = compare_in(comparison, tables / f"{comparison.table}{FIRST_EDITION}.csv")
    return replace(earlier, text=f"{earlier.text} (first edition)") if earlier.text else earlier


def compare_in(comparison: Comparison, path: Path) -> Result:
    """Return the result of a comparison, computed from the units of a stored table."""
    units = units_in(path)
    ahead, behind = (rows_of(units, folder) for folder in (comparison.ahead, comparison.behind))
    pairs = [(ahead[name], behind[name]) for name in sorted(ahead.keys() & behind.keys())]
    gains = [
        (one["score"] - other["score"]) * (1 if one["higher_is_better"] else -1)
        for one, other in pairs
    ]
    if (outcome := verdict(gains)) == MISSING:
        return Result(MISSING)
    columns = zip(*pairs, strict=True)
    means = [sum(unit["score"] for unit in column) / len(pairs) for column in columns]
    # the number of decimals that shows four digits
    decimals = min(6, max(0, 3 - math.floor(math.log10(max(*means, 1e-6)))))
    scores = " / ".join(f"{mean:.{decimals}f}" for mean in means)
    text = f"{comparison.label} {scores}, {interval(gains, f'+.{decimals}f')}: {outcome}"
    return Result(outcome, text, weights_of([unit for pair in pairs for unit in pair]))


@functools.cache
def units_in(path: Path) -> Units:
    """Return the units of a stored table; each table is read only once."""
    return read(path)


def summary(results: Sequence[Result]) -> str:
    """Return how many comparisons have each verdict; of a single comparison, its verdict."""
    counts = Counter(result.verdict for result in results)
    if len(results) == 1 or counts[MISSING] == len(results):
        return results[0].verdict
    order = (HELD, NOT_SEEN, REVERSED, MISSING)
    parts = ", ".join(f"{name} in {counts[name]}" for name in order if counts[name])
    return f"{parts} of {len(results)}"


def results_of(claim: Claim, tables: Path) -> list[Result]:
    """Return the results of a claim's comparisons; one without comparisons is not yet measured."""
    return [compare(one, tables) for one in claim.comparisons] or [Result(MISSING)]


def row(claim: Claim, results: Sequence[Result]) -> list[str]:
    """Return the table row of a claim."""
    verdicts = {result.verdict for result in results}
    reason = claim.reason
    if verdicts == {HELD}:
        reason = ""
    elif verdicts == {MISSING} and not reason:
        names = sorted({one.table for one in claim.comparisons})
        reason = f"`benchmarks/tables/{names[0]}.csv` has no such runs yet."
    measured = "<br>".join(result.text for result in results if result.text)
    cells = [claim.source, claim.ahead, claim.behind, claim.figures, measured]
    return [*cells, summary(results), reason]


def report(tables: Path) -> str:
    """Return the text of the page: the summary, and one table for each paper."""
    shipped = fingerprint(folder_of("tiny"))[:12]
    counts, parts = [], []
    for paper, claims in CLAIMS.items():
        results = [results_of(claim, tables) for claim in claims]
        measured = [result for group in results for result in group if result.text]
        verdicts = Counter(result.verdict for result in measured)
        tested = sum(any(result.text for result in group) for group in results)
        counts.append([paper, *map(str, (len(claims), tested, len(measured)))])
        counts[-1] += [str(verdicts[name]) for name in (HELD, NOT_SEEN, REVERSED)]
        head = ["source", "ahead in the paper", "behind", "scores in the paper", "measured here"]
        body = [row(claim, group) for claim, group in zip(claims, results, strict=True)]
        parts.append(f"## {paper}\n\n{table([*head, 'verdict', 'reason'], body)}")
        for weights in sorted({result.weights for result in measured}):
            if weights == FROM_SCRATCH:
                parts.append("Measured from scratch, without the embedded model.")
                continue
            age = "shipped now" if weights == shipped else f"older than the shipped {shipped}"
            parts.append(f"Measured with the embedded model of weights {weights} ({age}).")
    total = [sum(int(line[column]) for line in counts) for column in range(1, 7)]
    head = ["paper", "claims", "measured", "comparisons", HELD, NOT_SEEN, REVERSED]
    first = table(head, [*counts, ["all", *map(str, total)]])
    return "\n\n".join([f"## Summary\n\n{first}", *parts, "`python benchmarks/claims.py`"])


def main() -> None:
    """Print the tables and write them into the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", type=Path, default=TABLES, help="folder of the stored tables")
    parser.add_argument("--report", type=Path, default=PAGE, help="page to write the tables into")
    parser.add_argument("--quick", action="store_true", help="print the tables, write no page")
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
