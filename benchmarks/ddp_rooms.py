"""Repeat the ablations of DDP (figure 3 and table 5 of the paper) on rendered rooms.

The recipe rooms/ddp_semantic is trained from scratch. All table rows are trained on the same
samples and compared by pairs of equal seed. They are scored on unseen rooms: "DDP" and its
continuation with self-aligned denoising with 1, 2, 3, 5 and 10 steps, all others with three. For
"DDP", the script also measures how many errors are in the most uncertain tenth of the pixels. Every
row has the multiply-adds and the seconds of one image. Finished trainings are stored as rows of
``--table`` and are not repeated. ``--write`` also draws the plot of the scores by steps.

    python benchmarks/ddp_rooms.py [--seeds 3] [--out DIR] [--table CSV] [--write]
"""

import argparse
import json
import shutil
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from plots import Panel, Plot, write_plot
from pretrained import FROM_SCRATCH
from reporting import (
    RESULTS,
    claim_folder,
    interval,
    paragraph,
    say,
    table,
    write_block,
    write_json,
)
from tables import TABLES, pack, unpack
from tables import read as read_table

from diffsight.cli.fit import fit_parser, train
from diffsight.cli.recipe import parse, read
from diffsight.datasets.base import AbstractDataset
from diffsight.inference import Plan, Predictor
from diffsight.inference.cost import estimate_cost
from diffsight.inference.evaluate import evaluate
from diffsight.model import DenseModel
from diffsight.ops.memory import keep_freed_memory
from diffsight.rooms import Rooms
from diffsight.training.fit import fit
from diffsight.training.preload import InMemory

RECIPE = "rooms/ddp_semantic"
SIDE = 128
TESTS = 100
STEPS = (1, 2, 3, 5, 10)
DEFAULT_STEPS = 3  # denoising steps in the recipe
TIMINGS = 5  # number of time measurements
FIRST, ALIGNED = "DDP", "self-aligned"
IN_TENTH, TENTH = "DDP, errors in the most uncertain tenth", "DDP, a tenth of the errors"
ALIGNED_STEPS, ALIGNED_LR = 50, "1e-4"  # a tenth of the learning rate, as in the authors' code
Unit = dict[str, Any]


def _encoding(cls: str, **arguments: Any) -> list[str]:
    return ["--method.encoding", json.dumps({"class_path": cls, "init_args": arguments})]


def _decoder(**changes: Any) -> list[str]:
    sizes = {"width": 64, "layers": 3, "hidden": 128, "time_width": 128, **changes}
    return ["--method.decoder", json.dumps({"class_path": "MapDecoder", "init_args": sizes})]


ROWS: dict[str, list[str]] = {
    FIRST: [],
    "no diffusion": ["--method.encoding", "null", *_decoder(time_width=None)],
    "analog bits, 0.01": _encoding("AnalogBits", scale=0.01),
    "analog bits, 0.1": _encoding("AnalogBits", scale=0.1),
    "one-hot, 0.01": _encoding("OneHot", scale=0.01),
    "one-hot, 0.1": _encoding("OneHot", scale=0.1),
    "class embedding, 0.001": _encoding("ClassEmbedding", width=64, scale=0.001),
    "class embedding, 0.1": _encoding("ClassEmbedding", width=64, scale=0.1),
    "linear noise": ["--method.noise", json.dumps({"class_path": "LinearNoise"})],
    "1 layer": _decoder(layers=1),
    "6 layers": _decoder(layers=6),
}


def name_of(row: str, steps: int) -> str:
    """Return the name of the stored scores of a row with a number of steps."""
    return row if steps == DEFAULT_STEPS else f"{row}, {steps} step{'s' * (steps > 1)}"


def run(row: str, seed: int, args: argparse.Namespace, tests: AbstractDataset) -> list[Unit]:
    """Return the scores of one training, one unit for each number of steps.

    Stored scores are read; otherwise the model is trained, and its scores are stored.
    """
    steps = STEPS if row in (FIRST, ALIGNED) else (DEFAULT_STEPS,)
    paths = [args.out / "units" / name_of(row, n) / f"seed{seed}.json" for n in steps]
    for path in paths:
        claim_folder(path.parent, {"weights": FROM_SCRATCH})
    if not all(path.is_file() for path in paths):
        model = trained(row, seed, args)
        for path, number in zip(paths, steps, strict=True):
            unit = {"seed": seed, **scores_of(model, tests, number)}
            write_json(path, unit)
            if "uncertainty" in unit:
                write_uncertainty(unit, args.out / "units")
            say(f"{path.parent.name} {seed}: {unit['score']:.2f}\n")
    return [json.loads(path.read_text()) for path in paths]


def write_uncertainty(unit: Unit, folder: Path) -> None:
    """Store two more scores: the errors in the most uncertain tenth, and a tenth of all errors."""
    percentages = {IN_TENTH: 100 * unit["uncertainty"]["errors_in_top_10"], TENTH: 10.0}
    for name, percentage in percentages.items():
        path = folder / name / f"seed{unit['seed']}.json"
        claim_folder(path.parent, {"weights": FROM_SCRATCH})
        row = {"seed": unit["seed"], "measure": "errors, %", "higher_is_better": True}
        write_json(path, row | {"score": percentage})


def trained(row: str, seed: int, args: argparse.Namespace) -> DenseModel:
    """Train and return the model of a row with a seed."""
    folder = args.out / "models" / row / str(seed)
    shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted run
    options = ["--recipe", RECIPE, "--out", str(folder), "--seed", str(seed)]
    options += ["--cache", str(args.out / "cache"), *ROWS.get(row, [])]
    if row == ALIGNED:
        first = args.out / "models" / FIRST / str(seed)
        if not (first / "model").exists():  # only its scores are stored, not its weights
            trained(FIRST, seed, args)
        options += ["--begin", str(first / "model"), "--method.aligned", "reused"]
        options += ["--optim.lr", ALIGNED_LR, "--steps", str(ALIGNED_STEPS)]
        options += ["--validate_every", str(ALIGNED_STEPS)]
    fitted = train(options)
    assert fitted is not None
    return fitted.model


def scores_of(model: Any, tests: AbstractDataset, steps: int) -> Unit:
    """Return mean IoU in percent and, for the largest number of steps, uncertainty measures."""
    model.method.sampler = replace(model.method.sampler, accumulate="last")
    number = steps if model.method.accepts_steps else None
    predictor = Predictor(model, Plan(batch_size=8, steps=number))
    result = evaluate(predictor, tests, uncertainty=steps == max(STEPS), baselines=model.baselines)
    scores = {name: row["mIoU, %"] for name, row in result.scores.items()}
    unit: Unit = {"measure": "miou", "higher_is_better": True, "score": scores["model"]}
    unit["constant"] = scores["constant majority"]
    unit |= {"uncertainty": dict(result.uncertainty)} if result.uncertainty else {}
    return unit


def measure_cost(row: str) -> tuple[float, float]:
    """Return multiply-adds (in 10^9) and seconds of one image for a row."""
    model = model_of(row).eval()
    image = torch.rand(3, SIDE, SIDE)
    predictor = Predictor(model)
    seconds = []
    for _ in range(TIMINGS + 1):
        start = time.perf_counter()
        predictor.one(image)
        seconds.append(time.perf_counter() - start)
    operations = estimate_cost(model.to("meta"), SIDE, SIDE).multiply_adds
    return operations / 1e9, statistics.median(seconds[1:])


def model_of(row: str) -> DenseModel:
    """Return the model of a row with random weights."""
    options = ["--recipe", RECIPE, "--out", "unused", *ROWS.get(row, [])]
    built = fit_parser().instantiate(parse(fit_parser(), options, fit))
    return DenseModel(task=built.task, method=built.method)


def tables_of(results: dict[str, list[list[Unit]]]) -> str:
    """Return both tables and a sentence about the uncertainty.

    Args:
        results: scores by row, seed and number of steps.
    """
    default = STEPS.index(DEFAULT_STEPS)
    first = [units[default]["score"] for units in results[FIRST]]
    by_steps, drift = [], []
    for row in (FIRST, ALIGNED):
        scores = [[unit["score"] for unit in units] for units in results[row]]
        by_steps.append(
            [row, *(interval(list(column), ".2f") for column in zip(*scores, strict=True))]
        )
        drift.append(interval([by_seed[-1] - by_seed[0] for by_seed in scores], "+.2f"))
    body = []
    for row in ROWS:
        values = first if row == FIRST else [units[0]["score"] for units in results[row]]
        gap = [a - b for a, b in zip(values, first, strict=True)]
        operations, seconds = measure_cost(row)
        change = "" if row == FIRST else interval(gap, "+.2f")
        body.append([row, interval(values, ".2f"), change, f"{operations:.3f}", f"{seconds:.3f}"])
    constant = statistics.mean(units[default]["constant"] for units in results[FIRST])
    body.append(["most frequent class", f"{constant:.2f}", "", "", ""])
    measures = [units[-1]["uncertainty"] for units in results[FIRST]]
    top = interval([100 * by_seed["errors_in_top_10"] for by_seed in measures], ".1f")
    errors = (
        f"Uncertainty with {max(STEPS)} steps: the tenth of the pixels whose class changed most "
        f"often has {top} % of the errors. The area under the sparsification error curve is "
        f"{_mean(measures, 'ause')}, the expected calibration error {_mean(measures, 'ece')}."
    )
    return "\n\n".join(
        [
            paragraph(
                "Mean IoU in percent by the number of steps (figure 3a of the paper). From 1 to 10 "
                f"steps, it changes by {drift[0]}; after self-aligned denoising, by {drift[1]}:"
            ),
            table(("row", *(f"{n} step{'s' * (n > 1)}" for n in STEPS)), by_steps),
            "With three steps (table 5 of the paper):",
            table(("row", "mIoU, %", "paired difference to DDP", "GMAC", "s per image"), body),
            paragraph(errors),
        ]
    )


def steps_plot(path: Path) -> Plot:
    """Return the plot of the scores by the number of denoising steps, from the stored table.

    The right panel shows the differences to one step, paired by seed, because scores differ more
    between seeds than between steps.
    """
    units = read_table(path)
    seeds = sorted(unit["seed"] for name, unit in units.items() if name.startswith(f"{FIRST}/"))

    def repeats(row: str, steps: int) -> list[float]:
        return [units[f"{name_of(row, steps)}/seed{seed}"]["score"] for seed in seeds]

    rows = (FIRST, ALIGNED)
    curves = {row: {steps: repeats(row, steps) for steps in STEPS} for row in rows}
    gains = {
        row: {
            steps: [a - b for a, b in zip(scores[steps], scores[STEPS[0]], strict=True)]
            for steps in STEPS[1:]
        }
        for row, scores in curves.items()
    }
    constant = [units[f"{FIRST}/seed{seed}"]["constant"] for seed in seeds]
    baselines = {
        "decoder without diffusion": repeats("no diffusion", DEFAULT_STEPS),
        "most frequent class (no image)": constant,
    }
    panels = (
        Panel("classes (higher is better)", "denoising steps", "mIoU, %", 2, curves, baselines),
        Panel("paired difference to 1 step", "denoising steps", "mIoU, points", 2, gains, {}),
    )
    caption = "Mean IoU of DDP by the number of denoising steps, with 95 % intervals"
    return Plot("score_by_steps", caption, panels)


def _mean(rows: list[dict[str, float]], key: str) -> str:
    return interval([row[key] for row in rows], ".3f")


def main() -> None:
    """Train all rows, one seed after another, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/ddp_rooms"))
    parser.add_argument("--table", type=Path, default=TABLES / "ddp_rooms.csv")
    parser.add_argument("--write", action="store_true", help="write the tables to docs/results.md")
    args = parser.parse_args()
    keep_freed_memory()
    claim_folder(args.out, {"recipe": read(RECIPE)["steps"]})
    unpack(args.table, args.out / "units")
    rooms = Rooms(split="test", count=TESTS, size=SIDE, labels=["semantic"])
    tests = InMemory(rooms, [rooms[index] for index in range(TESTS)])
    rows = [FIRST, ALIGNED, *(row for row in ROWS if row != FIRST)]
    results: dict[str, list[list[Unit]]] = {row: [] for row in rows}
    for seed in range(args.seeds):
        for row in rows:
            results[row].append(run(row, seed, args, tests))
    pack(args.out / "units", args.table)
    text = tables_of(results)
    say(text + "\n")
    if args.write:
        command = f"`python benchmarks/ddp_rooms.py --seeds {args.seeds} --write`"
        plot = steps_plot(args.table)
        write_plot(plot)
        write_block(RESULTS, "ddp_rooms", f"{command}\n\n{text}\n\n{plot.markdown}")


if __name__ == "__main__":
    main()
