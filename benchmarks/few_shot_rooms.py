"""Measure few-shot methods on rooms: ten tasks with baselines, and the few-shot paper's ablations.

The script runs ``diffsight benchmark few-shot`` on the embedded model. It writes four tables into
docs/results.md, and the plot of the scores by shots next to the page. A table that is not measured
with the shipped model shows the first edition, whose tables end in ``_64``. Every finished
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
from tables import SETTINGS, TABLES, Units, pack, read, unpack, weights_of

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
REPEATS = 5
FIRST_EDITION = "_64"  # end of the names of the tables of the embedded model for 64 px
# fixed steps of every training, so that results do not depend on the machine
STEPS = {"tasks": 100, "orderings": 250}
VARIANTS = {
    "few_shot": "FewShot: 10 tables, self-attention, classification",
    "few_shot:codebook=50": "50 tables",
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
Runs = dict[int, dict[str, Any]]


def run(args: argparse.Namespace) -> None:
    """Run the units that are missing in ``--out``."""
    ablation = ["--tasks", ",".join(ABLATION_TASKS), "--methods"]
    calls = [
        ("tasks", ["--methods", "few_shot,mean-map,constant,auto"]),
        ("orderings", [*ablation, ",".join(VARIANTS)]),
        *(("orderings", [*ablation, "few_shot,vpd", "--shots", str(n)]) for n in SHOTS[1:]),
    ]
    for part, options in calls:
        if part in args.parts:
            shard = [] if args.shard is None else ["--shard", args.shard]
            out = str(args.out / part)
            common = ["--size", str(SIDE_PX), "--steps", str(STEPS[part])]
            common += ["--repeats", str(REPEATS)]
            benchmark(["few-shot", "--out", out, *common, *shard, *options])


def runs_of(units: Units, task: str, method: str, shots: int = 10) -> Runs:
    """Return the units of a method by repeat."""
    folder = Unit(task, method, 0).path(Path(), shots).parent
    return {unit["repeat"]: unit for name, unit in units.items() if Path(name).parent == folder}


def units_of(tables: Path, part: str, edition: str = "") -> Units:
    """Return the units of a part; those of the first edition are always in ``TABLES``.

    Args:
        tables: folder of the tables of the shipped model.
        part: part of the page.
        edition: end of the name of the table.
    """
    return read((TABLES if edition else tables) / f"few_shot_{part}{edition}.csv")


def mean_maps(tables: Path, edition: str, task: str, reference: Runs) -> Runs:
    """Return the units of the mean map that have the same training images as the reference.

    Args:
        tables: folder of the stored tables; that of the ten tasks has the mean map.
        edition: end of the names of the tables.
        task: name of the task.
        reference: units to pair with, by repeat.
    """
    runs = runs_of(units_of(tables, "tasks", edition), task, "mean-map")
    return {
        repeat: runs[repeat]
        for repeat in reference.keys() & runs.keys()
        if runs[repeat]["training_images"] == reference[repeat]["training_images"]
    }


def edition_with(tables: Path, part: str, method: str, shots: int = 10) -> str:
    """Return the edition, the shipped one if possible, whose table has a method for all tasks.

    Args:
        tables: folder of the stored tables.
        part: part of the page.
        method: name of the method.
        shots: number of training images.
    """
    units = units_of(tables, part)
    tasks = TASKS if part == "tasks" else ABLATION_TASKS
    is_complete = all(len(runs_of(units, task, method, shots)) >= REPEATS for task in tasks)
    return "" if is_complete else FIRST_EDITION


def scores(runs: Runs) -> dict[int, float]:
    """Return the score of every repeat."""
    return {repeat: unit["score"] for repeat, unit in runs.items()}


def auto_table(tables: Path) -> str:
    """Return the table of ``auto`` in the ten tasks, with the baselines without an image."""
    edition = edition_with(tables, "tasks", "auto")
    units = units_of(tables, "tasks", edition)
    rows, seconds = [], []
    for task in TASKS:
        auto = runs_of(units, task, "auto")
        form, any_run = _form(auto), next(iter(auto.values()))
        cells = [task, any_run["measure"], _mean(auto, form)]
        for baseline in (runs_of(units, task, method) for method in BASELINES):
            cells += [_mean(baseline, form), _difference(auto, baseline, form)]
        chosen = Counter(unit["facts"]["chosen"] for unit in auto.values())
        picks = ", ".join(f"{name} {count}" for name, count in chosen.most_common())
        rows.append([*cells, picks])
        seconds += [unit["fit_seconds"] for unit in auto.values()]
    about = (
        f"{_conditions(units)}; 10 labelled images, {STEPS['tasks']} steps per training, "
        f"{len(auto)} draws of training images. Scores are means ± 95 % interval; differences are "
        "paired by training images. `auto` trains seven models, which takes "
        f"{statistics.median(seconds):.0f} s (median) on one of two busy cores."
    )
    head = ["task", "measure", "auto", "mean map", "auto better by", "constant"]
    head += ["auto better than constant by", "chosen by auto"]
    return f"{paragraph(about)}\n\n{table(head, rows)}"


def few_shot_table(tables: Path) -> str:
    """Return the table of ``few_shot`` against the mean map, with both embedded models."""
    before, now = (units_of(tables, "tasks", one) for one in (FIRST_EDITION, ""))
    rows = []
    for task in TASKS:
        ours, mean_map = (runs_of(now, task, method) for method in ("few_shot", "mean-map"))
        old, old_map = (runs_of(before, task, method) for method in ("few_shot", "mean-map"))
        form, any_run = _form(ours), next(iter(ours.values()))
        first, second = percent_better(old, old_map), percent_better(ours, mean_map)
        change = {repeat: second[repeat] - first[repeat] for repeat in second}
        cells = [task, any_run["measure"], _mean(ours, form), _mean(mean_map, form)]
        cells += [_difference(ours, mean_map, form)]
        rows.append([*cells, *(_percent(each) for each in (second, first, change))])
    about = (
        f"{_conditions(now)}; 10 labelled images, {STEPS['tasks']} steps per training, {REPEATS} "
        "draws of training images. *Better by* is the paired advantage over the mean map, in the "
        "unit of the measure and in percent of the mean map's score. *First edition* is the same "
        f"percentage with the weights {weights_of(before.values())} and the same rooms at 64 px."
    )
    head = ["task", "measure", "few_shot", "mean map", "better by", "better by, %"]
    head += ["first edition, %", "change, points"]
    return f"{paragraph(about)}\n\n{table(head, rows)}"


def percent_better(runs: Runs, baseline: Runs) -> dict[int, float]:
    """Return by repeat how much better the runs are, in percent of the baseline's score."""
    return {
        repeat: 100 * gain / baseline[repeat]["score"]
        for repeat, gain in gains_of(runs, baseline).items()
    }


def gains_of(runs: Runs, baseline: Runs) -> dict[int, float]:
    """Return by repeat how much better the runs are than the baseline, in the unit of the score."""
    better = 1 if next(iter(runs.values()))["higher_is_better"] else -1
    ours, theirs = scores(runs), scores(baseline)
    return {
        each: better * (ours[each] - theirs[each]) for each in sorted(ours.keys() & theirs.keys())
    }


def orderings_table(tables: Path) -> str:
    """Return the table of the paper's variants at 10 shots."""
    units, rows = units_of(tables, "orderings"), []
    for task in ABLATION_TASKS:
        reference = runs_of(units, task, "few_shot")
        form = _form(reference)
        title = f"{task}, {next(iter(reference.values()))['measure']}"
        for method, label in VARIANTS.items():
            runs = reference if method == "few_shot" else runs_of(units, task, method)
            cells = _cell(runs, reference, form)
            rows += [[title, label, *cells]] if cells else []
        cells = _cell(mean_maps(tables, "", task, reference), reference, form)
        rows += [[title, "mean map", *cells]] if cells else []
    about = (
        f"{_conditions(units)}; {STEPS['orderings']} steps per training, {REPEATS} draws of "
        "training images. Lower is better. In brackets is the paired difference to the first row "
        "of the task."
    )
    return f"{paragraph(about)}\n\n{table(['task', 'method', 'mean'], rows)}"


def shots_table(tables: Path) -> str:
    """Return the table and the plot of FewShot and VPD by the number of shots."""
    edition = edition_with(tables, "orderings", "vpd", SHOTS[-1])
    units, rows = units_of(tables, "orderings", edition), []
    for task in ABLATION_TASKS:
        for shots in SHOTS:
            ours, theirs = (runs_of(units, task, m, shots) for m in ("few_shot", "vpd"))
            form, measure = _form(ours), next(iter(ours.values()))["measure"]
            cells = [*_cell(ours, ours, form), *_cell(theirs, ours, form)]
            rows.append([f"{task}, {measure}", str(shots), *cells])
    about = (
        f"{_conditions(units)}; {STEPS['orderings']} steps per training, {REPEATS} draws of "
        "training images. Lower is better. In brackets is the paired difference to FewShot."
    )
    head = ["task", "shots", "FewShot", "VPD (difference)"]
    return f"{paragraph(about)}\n\n{table(head, rows)}\n\n{shots_plot(tables).markdown}"


def shots_plot(tables: Path) -> Plot:
    """Return the plot of FewShot and VPD by the number of shots, from the stored tables.

    The plotted baseline is the better one of mean map and constant, with ten shots.
    """
    edition = edition_with(tables, "orderings", "vpd", SHOTS[-1])
    units = units_of(tables, "orderings", edition)
    panels = []
    for task, (title, unit, digits) in PANELS.items():
        curves = {
            label: {
                shots: [*scores(runs_of(units, task, method, shots)).values()] for shots in SHOTS
            }
            for label, method in (("FewShot", "few_shot"), ("VPD", "vpd"))
        }
        constant = runs_of(units, task, "constant")
        candidates = (constant, mean_maps(tables, edition, task, constant))
        best = min(([*scores(each).values()] for each in candidates if each), key=statistics.mean)
        baseline = {f"best baseline without an image, {SHOTS[0]} shots": best}
        panels.append(Panel(title, "labelled rooms", unit, digits, curves, baseline, is_log_x=True))
    caption = "Scores of FewShot and VPD by the number of labelled rooms, with 95 % intervals"
    return Plot("score_by_shots", caption, tuple(panels))


BLOCKS = {
    "tasks": {"few_shot_tasks": auto_table, "few_shot_alone": few_shot_table},
    "orderings": {"few_shot_orderings": orderings_table, "few_shot_shots": shots_table},
}
"""Blocks of the page by part, each with the function that returns its text."""


def _conditions(units: Units) -> str:
    """Return a text with the weights and the images of units."""
    sources = ", ".join(sorted({unit["source"] for unit in units.values()}))
    return f"Weights {weights_of(units.values())}; {sources}"


def _percent(values: dict[int, float]) -> str:
    return interval(list(values.values()), "+.1f")


def _mean(runs: Runs, form: str) -> str:
    return interval(list(scores(runs).values()), form)


def _difference(runs: Runs, baseline: Runs, form: str) -> str:
    return interval(list(gains_of(runs, baseline).values()), f"+{form}")


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
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=BLOCKS,
        default=tuple(BLOCKS),
        help="parts of the page to measure (default: all)",
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
        for name, make in BLOCKS[part].items():
            command = f"python benchmarks/few_shot_rooms.py --parts {part}"
            text = f"{make(args.tables)}\n\n`{command}`"
            write_block(RESULTS, name, text)
            sys.stdout.write(text + "\n\n")
    if "orderings" in args.parts:
        write_plot(shots_plot(args.tables))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
