"""Measure few-shot methods on rooms: ten tasks with baselines, and the few-shot paper's ablations.

The script runs ``diffsight benchmark few-shot`` on the embedded model. It writes two blocks of
tables into docs/results.md, and the plot of the scores by shots next to the page. Every finished
unit (one training with its scores) is stored in ``benchmarks/tables/few_shot_*.csv``. Stored units
are unpacked into the working folder ``--out`` and are not run again. New units stay in ``--out``,
so that an interrupted benchmark can be continued.

One thread per process is fastest. Several processes with --shard divide the units among them, with
the same ``--out``. A last call without --shard adds the new units to the tables, and writes the
page.

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

from plots import Panel, Plot, write_plot
from pretrained import fingerprint, folder_of
from reporting import RESULTS, cell, interval, paragraph, table, write_block, write_json
from tables import SETTINGS, TABLES, pack, read, read_folder, unpack, weights_of

from diffsight.benchmark.report import write_report
from diffsight.benchmark.rooms import rooms_source
from diffsight.benchmark.units import Unit
from diffsight.cli.benchmark import main as benchmark
from diffsight.errors import InputError

SIDE_PX = 128
TASKS = tuple(rooms_source(size=SIDE_PX).tasks)
BASELINES = ("mean-map", "constant")
ABLATION_TASKS = ("depth_zbuffer", "normal", "edge_texture")
SHOTS = (10, 20, 50, 100)
REPEATS = 5  # repeats of the slowest methods
# fixed steps of every training, so that results do not depend on the machine
STEPS = {"tasks": 100, "orderings": 250}
VARIANTS = {
    "few_shot": "FewShot: 10 tables, self-attention, classification",
    "few_shot:codebook=1": "1 table",
    "few_shot:codebook=0": "no table: fixed values",
    "few_shot:maps.self_attention=false": "without self-attention",
    "few_shot-regression": "regression only",
    "clip-linear": "linear probe of the CLIP tower",
    "vpd": "VPD",
    "constant": "constant",
}
PANELS = {  # of the plot, by task: title, score with its unit, digits after the point
    "depth_zbuffer": ("depth (lower is better)", "RMSE, m", 4),
    "normal": ("normals (lower is better)", "mean angle, °", 2),
    "edge_texture": ("2D edges (lower is better)", "RMSE", 5),
}
# method names in stored results that are older than method options
OLD_NAMES = {
    "few_shot:codebook=1": "few_shot-k1",
    "few_shot:codebook=0": "few_shot-k0",
    "few_shot:maps.self_attention=false": "few_shot-no-self-attention",
}
Runs = dict[int, dict[str, Any]]


def run(args: argparse.Namespace) -> None:
    """Run the units that are missing in ``--out``."""
    ablation = ["--tasks", ",".join(ABLATION_TASKS), "--repeats", str(REPEATS)]
    calls = [
        ("tasks", ["--methods", "auto,mean-map,constant", "--repeats", "10"]),
        ("tasks", ["--methods", "few_shot", "--repeats", str(REPEATS)]),
        ("orderings", ["--methods", ",".join(VARIANTS), *ablation]),
    ]
    for shots in SHOTS[1:]:
        options = ["--methods", "few_shot,vpd", "--shots", str(shots), *ablation]
        calls.append(("orderings", options))
    for part, options in calls:
        if part in args.parts:
            shard = [] if args.shard is None else ["--shard", args.shard]
            out = str(args.out / part)
            sizes = ["--size", str(SIDE_PX), "--steps", str(STEPS[part])]
            benchmark(["few-shot", "--out", out, *sizes, *shard, *options])


def runs_of(folder: Path, task: str, method: str, shots: int = 10) -> Runs:
    """Return the stored units of a method by repeat; old units may have an earlier method name."""
    names = (method, OLD_NAMES.get(method, method))
    folders = {Unit(task, name, 0).path(folder, shots).parent for name in names}
    paths = sorted(path for each in folders for path in each.glob("rep*.json"))
    units = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return {unit["repeat"]: unit for unit in units}


def mean_maps(tables: Path, task: str, reference: Runs) -> Runs:
    """Return the units of the mean map that have the same training images as the reference.

    Args:
        tables: folder of the stored tables; that of the ten tasks has the mean map.
        task: name of the task.
        reference: units to pair with, by repeat.
    """
    units = read(tables / "few_shot_tasks.csv")
    names = {repeat: f"{task}/mean-map/shots10/rep{repeat:03d}" for repeat in reference}
    return {
        repeat: units[name]
        for repeat, name in names.items()
        if name in units and units[name]["training_images"] == reference[repeat]["training_images"]
    }


def scores(runs: Runs) -> dict[int, float]:
    """Return the score of every repeat."""
    return {repeat: unit["score"] for repeat, unit in runs.items()}


def tasks_table(folder: Path) -> str:
    """Return the table of the ten tasks, with ``auto``, two baselines and ``few_shot``."""
    rows, seconds = [], []
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
        seconds += [unit["fit_seconds"] for unit in auto.values()]
    head = ["task", "measure", "auto", "mean map", "auto better by", "constant"]
    head += ["auto better than constant by", "few_shot", "chosen by auto"]
    about = (
        f"{_conditions(folder)}; 10 labelled images, {STEPS['tasks']} steps per training. "
        "`auto` and the two baselines without an image were repeated ten times, `few_shot` five "
        "times. Scores are means ± 95 % interval; differences are paired by training images. "
        f"`auto` trains seven models, which takes {statistics.median(seconds):.0f} s (median) on "
        f"one of two busy cores; {sum(s > 90 for s in seconds)} of {len(seconds)} runs took more "
        "than 90 s."
    )
    return f"{paragraph(about)}\n\n{table(head, rows)}"


def orderings_tables(folder: Path, tables: Path) -> str:
    """Return the tables of the paper's variants at 10 shots, and of FewShot and VPD by shots.

    Args:
        folder: folder of the units.
        tables: folder of the stored tables; that of the ten tasks has the mean map.
    """
    rows, by_shots = [], []
    for task in ABLATION_TASKS:
        reference = runs_of(folder, task, "few_shot")
        form = _form(reference)
        title = f"{task}, {next(iter(reference.values()))['measure']}"
        for method, label in VARIANTS.items():
            runs = reference if method == "few_shot" else runs_of(folder, task, method)
            cells = _cell(runs, reference, form)
            rows += [[title, label, *cells]] if cells else []
        cells = _cell(mean_maps(tables, task, reference), reference, form)
        rows += [[title, "mean map", *cells]] if cells else []
        for shots in SHOTS:
            ours, theirs = (runs_of(folder, task, m, shots) for m in ("few_shot", "vpd"))
            if min(len(ours), len(theirs)) == REPEATS:
                cells = [*_cell(ours, ours, form), *_cell(theirs, ours, form)]
                by_shots.append([title, str(shots), *cells])
    about = (
        f"{_conditions(folder)}; {STEPS['orderings']} steps per training, five draws of training "
        "images. Lower is better."
    )
    return (
        f"{paragraph(about)}\n\n"
        "With ten shots; in brackets is the paired difference to the first row of the task:\n\n"
        f"{table(['task', 'method', 'mean'], rows)}\n\n"
        "With more shots; in brackets is the paired difference to FewShot:\n\n"
        f"{table(['task', 'shots', 'FewShot', 'VPD (difference)'], by_shots)}"
    )


def shots_plot(tables: Path) -> Plot:
    """Return the plot of FewShot and VPD by the number of shots, from the stored tables.

    The plotted baseline is the better one of mean map and constant, with ten shots.
    """
    units = read(tables / "few_shot_orderings.csv")

    def runs(task: str, method: str, shots: int) -> Runs:
        return {i: units[f"{task}/{method}/shots{shots}/rep{i:03d}"] for i in range(REPEATS)}

    panels = []
    for task, (title, unit, digits) in PANELS.items():
        curves = {
            label: {shots: [*scores(runs(task, method, shots)).values()] for shots in SHOTS}
            for label, method in (("FewShot", "few_shot"), ("VPD", "vpd"))
        }
        constant = runs(task, "constant", SHOTS[0])
        candidates = (constant, mean_maps(tables, task, constant))
        best = min(([*scores(each).values()] for each in candidates if each), key=statistics.mean)
        baseline = {f"best baseline without an image, {SHOTS[0]} shots": best}
        panels.append(Panel(title, "labelled rooms", unit, digits, curves, baseline, is_log_x=True))
    caption = "Scores of FewShot and VPD by the number of labelled rooms, with 95 % intervals"
    return Plot("score_by_shots", caption, tuple(panels))


def _conditions(folder: Path) -> str:
    """Return a text with the weights and the images of the units in a folder."""
    units = read_folder(folder).values()
    sources = ", ".join(sorted({unit["source"] for unit in units}))
    return f"Weights {weights_of(units)}; {sources}"


def _cell(runs: Runs, reference: Runs, form: str) -> list[str]:
    ours, theirs = scores(runs), scores(reference)
    return [cell(ours, ours if runs is reference else theirs, int(form[1]))] if ours else []


def _form(runs: Runs) -> str:
    """Return the number format in which the scores have four digits, such as ``.4f``."""
    if not runs:
        raise InputError(
            "no unit of auto or few_shot is finished: run the benchmark without --report"
        )
    score = next(iter(runs.values()))["score"]
    return f".{min(6, 3 - math.floor(math.log10(score)))}f"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/few_shot"), help="working folder")
    parser.add_argument("--tables", type=Path, default=TABLES, help="folder of the stored tables")
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="run the portion I of N of the units, counted from 0, and write no table",
    )
    parser.add_argument(
        "--report", action="store_true", help="run nothing, write the page from the stored tables"
    )
    both = ("tasks", "orderings")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=both,
        default=both,
        help="blocks of the page to measure (default: both)",
    )
    return parser.parse_args(argv)


def name_weights(folder: Path) -> None:
    """Record the hash of the current weights in the folder of every unit."""
    weights = {"weights": fingerprint(folder_of("tiny"))}
    for unit_folder in {path.parent for path in folder.rglob("rep*.json")}:
        write_json(unit_folder / SETTINGS, weights)


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
    for part in args.parts:
        write_report(args.out / part)  # raises an error for units that cannot be compared
        if not args.report:
            name_weights(args.out / part)
        pack(args.out / part, args.tables / f"few_shot_{part}.csv")
        if part == "tasks":
            text = tasks_table(args.out / part)
        else:
            text = orderings_tables(args.out / part, args.tables)
            plot = shots_plot(args.tables)
            write_plot(plot)
            text += f"\n\n{plot.markdown}"
        text += f"\n\n`python benchmarks/few_shot_rooms.py --parts {part}`"
        write_block(RESULTS, f"few_shot_{part}", text)
        sys.stdout.write(text + "\n\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
