"""Measure few-shot methods on rooms: ten tasks with baselines, and the few-shot paper's ablations.

Runs ``diffsight benchmark few-shot`` on the embedded model and writes two blocks of tables into
docs/results.md. The results are kept in ``benchmarks/tables/few_shot_*.csv``. Their units are
unpacked into the working folder ``--out`` and are not run again. Finished units stay in ``--out``,
so that an interrupted benchmark continues. One thread per process is fastest: processes with
--shard run their part of the units into the same ``--out``; a last call without --shard adds the
new units to the tables and writes the page.

    OMP_NUM_THREADS=1 python benchmarks/few_shot_rooms.py --shard 0/2 &
    OMP_NUM_THREADS=1 python benchmarks/few_shot_rooms.py --shard 1/2; wait
    python benchmarks/few_shot_rooms.py
    python benchmarks/few_shot_rooms.py --report    # run nothing: write the page from the tables

Units of another version of diffsight are not mixed with new ones. To measure a new version, give
``--tables`` and ``--out`` folders of its own.
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
from reporting import RESULTS, cell, interval, table, write_block, write_json
from tables import SETTINGS, TABLES, pack, unpack

from diffsight.benchmark.report import write_report
from diffsight.benchmark.rooms import rooms_source
from diffsight.benchmark.units import Unit
from diffsight.cli.benchmark import main as benchmark
from diffsight.errors import InputError

SIDE_PX = 128
TASKS = tuple(rooms_source(size=SIDE_PX).tasks)
BASELINES = ("mean-map", "constant")
ORDERED = ("depth_zbuffer", "normal", "edge_texture")
SHOTS = (10, 20, 50, 100)
REPEATS = 5  # of the methods that take longest
STEPS = {"tasks": 100, "orderings": 250}  # of every training, so that any machine trains the same
VARIANTS = {
    "few_shot": "FewShot: 10 tables, self-attention, classification",
    "few_shot:codebook=1": "1 table",
    "few_shot:codebook=0": "no table: fixed values",
    "few_shot:maps.self_attention=false": "without self-attention",
    "few_shot-regression": "regression alone",
    "clip-linear": "linear probe of the CLIP tower",
    "vpd": "VPD",
    "constant": "constant",
}
# names of the kept results, which are older than options of methods
OLD_NAMES = {
    "few_shot:codebook=1": "few_shot-k1",
    "few_shot:codebook=0": "few_shot-k0",
    "few_shot:maps.self_attention=false": "few_shot-no-self-attention",
}
Runs = dict[int, dict[str, Any]]


def run(args: argparse.Namespace) -> None:
    """Run the units that are missing in ``--out``."""
    few = ["--tasks", ",".join(ORDERED), "--repeats", str(REPEATS)]
    calls = [
        ("tasks", ["--methods", "auto,mean-map,constant", "--repeats", "10"]),
        ("tasks", ["--methods", "few_shot", "--repeats", str(REPEATS)]),
        ("orderings", ["--methods", ",".join(VARIANTS), *few]),
    ]
    for shots in SHOTS[1:]:
        calls.append(("orderings", ["--methods", "few_shot,vpd", "--shots", str(shots), *few]))
    for part, words in calls:
        if part in args.parts:
            shard = [] if args.shard is None else ["--shard", args.shard]
            out = str(args.out / part)
            sizes = ["--size", str(SIDE_PX), "--steps", str(STEPS[part])]
            benchmark(["few-shot", "--out", out, *sizes, *shard, *words])


def runs_of(folder: Path, task: str, method: str, shots: int = 10) -> Runs:
    """Return the stored units of a table cell, by repeat; kept ones may have the old name."""
    names = (method, OLD_NAMES.get(method, method))
    folders = {Unit(task, name, 0).path(folder, shots).parent for name in names}
    paths = sorted(path for one in folders for path in one.glob("rep*.json"))
    units = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return {unit["repeat"]: unit for unit in units}


def scores(runs: Runs) -> dict[int, float]:
    """Return the score of every repeat."""
    return {repeat: unit["score"] for repeat, unit in runs.items()}


def tasks_table(folder: Path) -> str:
    """Return the table of the ten tasks: `auto`, its baselines, and the paper's method."""
    rows, took = [], []
    for task in TASKS:
        auto = runs_of(folder, task, "auto")
        ours, form = scores(auto), _form(auto)
        better = 1 if next(iter(auto.values()))["higher_is_better"] else -1
        cells = [task, next(iter(auto.values()))["measure"], interval(list(ours.values()), form)]
        for baseline in BASELINES:
            theirs = scores(runs_of(folder, task, baseline))
            gains = [better * (ours[r] - theirs[r]) for r in sorted(ours.keys() & theirs.keys())]
            cells += [interval(list(theirs.values()), form), interval(gains, f"+{form}")]
        paper = scores(runs_of(folder, task, "few_shot"))
        chosen = Counter(unit["facts"]["chosen"] for unit in auto.values())
        picks = ", ".join(f"{name} {count}" for name, count in chosen.most_common())
        rows.append([*cells, interval(list(paper.values()), form) if paper else "", picks])
        took += [unit["fit_seconds"] for unit in auto.values()]
    head = ["task", "measure", "auto", "mean map", "auto better by", "best constant"]
    head += ["auto better by", "few_shot", "auto took"]
    return (
        f"{_model()}, 10 labelled rooms of {SIDE_PX} px, {STEPS['tasks']} steps of every training "
        f"(`auto` has seven: a median of {statistics.median(took):.0f} s on one of two busy cores, "
        f"{sum(t > 90 for t in took)} of {len(took)} above 90 s), 100 other rooms; `auto` and what "
        "never looks at the image ten times, `few_shot` five times. Mean ± 95 % "
        f"interval, differences paired by support.\n\n{table(head, rows)}"
    )


def orderings_tables(folder: Path) -> str:
    """Return the paper's variants at 10 shots, and its method against VPD at more shots."""
    rows, more = [], []
    for task in ORDERED:
        reference = runs_of(folder, task, "few_shot")
        form = _form(reference)
        title = f"{task}, {next(iter(reference.values()))['measure']}"
        for method, label in VARIANTS.items():
            runs = reference if method == "few_shot" else runs_of(folder, task, method)
            cells = _cell(runs, reference, form)
            rows += [[title, label, *cells]] if cells else []
        for shots in SHOTS:
            ours, theirs = (runs_of(folder, task, m, shots) for m in ("few_shot", "vpd"))
            if min(len(ours), len(theirs)) == REPEATS:
                cells = [*_cell(ours, ours, form), *_cell(theirs, ours, form)]
                more.append([title, str(shots), *cells])
    return (
        f"{_model()}, rooms of {SIDE_PX} px, {STEPS['orderings']} steps of every training, five "
        "supports; in brackets the paired difference to the first row. Less is better.\n\n"
        f"{table(['task', '10 shots', 'mean'], rows)}\n\n"
        f"{table(['task', 'shots', 'FewShot', 'VPD (to FewShot)'], more)}"
    )


def _model() -> str:
    return f"Weights {fingerprint(folder_of('tiny'))[:12]}"


def _cell(runs: Runs, reference: Runs, form: str) -> list[str]:
    ours, theirs = scores(runs), scores(reference)
    return [cell(ours, ours if runs is reference else theirs, int(form[1]))] if ours else []


def _form(runs: Runs) -> str:
    """Return the format that shows four digits of the scores."""
    if not runs:
        raise InputError(
            "there is no finished unit of auto or few_shot: run the benchmark without --report"
        )
    score = next(iter(runs.values()))["score"]
    return f".{min(6, 3 - math.floor(math.log10(score)))}f"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/few_shot"), help="working folder")
    parser.add_argument("--tables", type=Path, default=TABLES, help="folder of the tables")
    parser.add_argument("--shard", metavar="I/N", help="run part I of N and write no table")
    parser.add_argument(
        "--report", action="store_true", help="run nothing, write the page from the tables"
    )
    both = ("tasks", "orderings")
    parser.add_argument("--parts", nargs="+", choices=both, default=both)
    return parser.parse_args(argv)


def name_weights(folder: Path) -> None:
    """Write beside every unit that it was measured with the present weights."""
    weights = {"weights": fingerprint(folder_of("tiny"))}
    for place in {path.parent for path in folder.rglob("rep*.json")}:
        write_json(place / SETTINGS, weights)


def main() -> None:
    """Run the missing units, add them to the tables and write the page."""
    args = parse()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for part in args.parts:
        unpack(args.tables / f"few_shot_{part}.csv", args.out / part)
    if not args.report:
        run(args)
    if args.shard is not None:
        return
    made = {"tasks": tasks_table, "orderings": orderings_tables}
    for part in args.parts:
        write_report(args.out / part)  # refuses units that cannot be compared
        if not args.report:
            name_weights(args.out / part)
        pack(args.out / part, args.tables / f"few_shot_{part}.csv")
        text = made[part](args.out / part)
        text += f"\n\n`python benchmarks/few_shot_rooms.py --parts {part}`"
        write_block(RESULTS, f"few_shot_{part}", text)
        sys.stdout.write(text + "\n\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
