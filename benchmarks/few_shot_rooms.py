"""Few labelled rooms: ten tasks beside what must be beaten, and the few-shot paper's orderings.

Runs ``diffsight benchmark few-shot`` on the embedded model and puts two tables into
docs/results.md. Units that are there are not run again, so a stopped benchmark goes on where it
was. One thread per process gets most done: with --shard only the units are run, side by side, and
without it the tables are written at the end.

    OMP_NUM_THREADS=1 python benchmarks/few_shot_rooms.py --shard 0/2 &
    OMP_NUM_THREADS=1 python benchmarks/few_shot_rooms.py --shard 1/2
    python benchmarks/few_shot_rooms.py
"""

import argparse
import json
import logging
import math
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretrained import fingerprint, folder_of
from reporting import RESULTS, cell, interval, table, write_block

from diffsight.benchmark.report import write_report
from diffsight.cli.benchmark import main as benchmark
from diffsight.errors import InputError
from diffsight.rooms.source import RoomsSource

TASKS = tuple(RoomsSource.tasks)
FLOORS = ("mean-map", "constant")
ORDERED = ("depth_zbuffer", "normal", "edge_texture")
SHOTS = (10, 20, 50, 100)
REPEATS = 5  # of what learns longest
STEPS = {"tasks": 100, "orderings": 250}  # of every training: another machine learns the same
VARIANTS = {
    "concepts": "FewShot: 10 tables, self-attention, classification",
    "concepts-k1": "1 table",
    "concepts-k0": "no table: fixed values",
    "concepts-no-self-attention": "without self-attention",
    "concepts-regression": "regression alone",
    "clip-linear": "linear probe of the CLIP tower",
    "vpd": "VPD",
    "constant": "constant",
}
Runs = dict[int, dict[str, Any]]


def run(args: argparse.Namespace) -> None:
    """All units that are not there."""
    few = ["--tasks", ",".join(ORDERED), "--repeats", str(REPEATS)]
    calls = [
        ("tasks", ["--methods", "auto,mean-map,constant", "--repeats", "10"]),
        ("tasks", ["--methods", "concepts", "--repeats", str(REPEATS)]),
        ("orderings", ["--methods", ",".join(VARIANTS), *few]),
    ]
    for shots in SHOTS[1:]:
        calls.append(("orderings", ["--methods", "concepts,vpd", "--shots", str(shots), *few]))
    for part, words in calls:
        if part in args.parts:
            shard = [] if args.shard is None else ["--shard", args.shard]
            out = str(args.out / part)
            benchmark(["few-shot", "--out", out, "--steps", str(STEPS[part]), *shard, *words])


def runs_of(folder: Path, task: str, method: str, shots: int = 10) -> Runs:
    """The stored units of a cell, by repeat."""
    paths = sorted((folder / task / method / f"shots{shots}").glob("rep*.json"))
    units = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return {unit["repeat"]: unit for unit in units}


def scores(runs: Runs) -> dict[int, float]:
    return {repeat: unit["score"] for repeat, unit in runs.items()}


def tasks_table(folder: Path) -> str:
    """Ten tasks: `auto`, what must be beaten, and the paper's method beside them."""
    rows, took = [], []
    for task in TASKS:
        auto = runs_of(folder, task, "auto")
        ours, form = scores(auto), _form(auto)
        better = 1 if next(iter(auto.values()))["higher_is_better"] else -1
        cells = [task, next(iter(auto.values()))["measure"], interval(list(ours.values()), form)]
        for floor in FLOORS:
            theirs = scores(runs_of(folder, task, floor))
            gains = [better * (ours[r] - theirs[r]) for r in sorted(ours.keys() & theirs.keys())]
            cells += [interval(list(theirs.values()), form), interval(gains, f"+{form}")]
        paper = scores(runs_of(folder, task, "concepts"))
        chosen = Counter(unit["facts"]["chosen"] for unit in auto.values())
        picks = ", ".join(f"{name} {count}" for name, count in chosen.most_common())
        rows.append([*cells, interval(list(paper.values()), form) if paper else "", picks])
        took += [unit["learn_seconds"] for unit in auto.values()]
    head = ["task", "measure", "auto", "mean map", "auto better by", "best constant"]
    head += ["auto better by", "concepts", "auto took"]
    return (
        f"{_model()}, 10 labelled rooms of 64 px, {STEPS['tasks']} steps of every training "
        f"(`auto` has seven: a median of {statistics.median(took):.0f} s on one of two busy cores, "
        f"{sum(t > 90 for t in took)} of {len(took)} above 90 s), 100 other rooms; `auto` and what "
        "never looks at the image ten times, `concepts` five times. Mean ± 95 % "
        f"interval, differences paired by support.\n\n{table(head, rows)}"
    )


def orderings_tables(folder: Path) -> str:
    """The paper's variants at 10 shots, then its method beside VPD at more."""
    rows, more = [], []
    for task in ORDERED:
        reference = runs_of(folder, task, "concepts")
        form = _form(reference)
        title = f"{task}, {next(iter(reference.values()))['measure']}"
        for method, what in VARIANTS.items():
            runs = reference if method == "concepts" else runs_of(folder, task, method)
            cells = _cell(runs, reference, form)
            rows += [[title, what, *cells]] if cells else []
        for shots in SHOTS:
            ours, theirs = (runs_of(folder, task, m, shots) for m in ("concepts", "vpd"))
            if min(len(ours), len(theirs)) == REPEATS:
                cells = [*_cell(ours, ours, form), *_cell(theirs, ours, form)]
                more.append([title, str(shots), *cells])
    return (
        f"{_model()}, rooms of 64 px, {STEPS['orderings']} steps of every training, five supports; "
        "in brackets the paired difference to the first row. Less is better.\n\n"
        f"{table(['task', '10 shots', 'mean'], rows)}\n\n"
        f"{table(['task', 'shots', 'FewShot', 'VPD (to FewShot)'], more)}"
    )


def _model() -> str:
    return f"Weights {fingerprint(folder_of('tiny'))[:12]}"


def _cell(runs: Runs, reference: Runs, form: str) -> list[str]:
    ours, theirs = scores(runs), scores(reference)
    return [cell(ours, ours if runs is reference else theirs, int(form[1]))] if ours else []


def _form(runs: Runs) -> str:
    """Four digits."""
    if not runs:
        raise InputError("no unit of auto or concepts is there yet: run without --parts first")
    score = next(iter(runs.values()))["score"]
    return f".{min(6, 3 - math.floor(math.log10(score)))}f"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "units" / "few_shot")
    parser.add_argument("--shard", metavar="I/N", help="run a part, write no table")
    both = ("tasks", "orderings")
    parser.add_argument("--parts", nargs="+", choices=both, default=both)
    return parser.parse_args(argv)


def main() -> None:
    args = parse()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    run(args)
    if args.shard is not None:
        return
    made = {"tasks": tasks_table, "orderings": orderings_tables}
    for part in args.parts:
        write_report(args.out / part)  # refuses units that are no pairs
        text = made[part](args.out / part)
        text += f"\n\n`python benchmarks/few_shot_rooms.py --parts {part}`"
        write_block(RESULTS, f"few_shot_{part}", text)
        sys.stdout.write(text + "\n\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
