"""Repeat the ablations of DDP (figure 3, table 5) on rooms, against the decoder without diffusion.

The recipe rooms/ddp_semantic, from scratch, all rows with equal samples and paired by seed. Rows
are scored on new rooms: the first one and its self-aligned continuation in 1, 2, 3, 5 and 10 steps,
all others in three. With the first one the most uncertain tenth of the pixels is compared with the
errors. Every row has its multiply-adds and its seconds for an image. Finished runs are kept as rows
of ``--table`` and not repeated.

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
from pretrained import FROM_SCRATCH
from reporting import RESULTS, claim_folder, interval, say, table, write_block, write_json
from tables import TABLES, pack, unpack

from diffsight.cli.fit import fit_parser, train
from diffsight.cli.recipe import parse, read
from diffsight.datasets.base import AbstractDataset
from diffsight.inference import Plan, Predictor
from diffsight.inference.cost import cost
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
USUAL = 3  # steps of the recipe
TURNS = 5  # measurements of the seconds
FIRST, ALIGNED = "DDP", "self-aligned"
IN_TENTH, TENTH = "DDP, errors in the most uncertain tenth", "DDP, a tenth of the errors"
ALIGNED_STEPS, ALIGNED_LR = 50, "1e-4"  # a tenth of the rate, as the authors'
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
    """Return the name of a row's units for a number of steps."""
    return row if steps == USUAL else f"{row}, {steps} step{'s' * (steps > 1)}"


def run(row: str, seed: int, args: argparse.Namespace, tests: AbstractDataset) -> list[Unit]:
    """Return the units of one training, one for each number of steps, and store them."""
    steps = STEPS if row in (FIRST, ALIGNED) else (USUAL,)
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
    """Write two units more: the errors in the most uncertain tenth, and a tenth of them."""
    shares = {IN_TENTH: 100 * unit["uncertainty"]["errors_in_top_10"], TENTH: 10.0}
    for name, share in shares.items():
        path = folder / name / f"seed{unit['seed']}.json"
        claim_folder(path.parent, {"weights": FROM_SCRATCH})
        row = {"seed": unit["seed"], "measure": "errors, %", "higher_is_better": True}
        write_json(path, row | {"score": share})


def trained(row: str, seed: int, args: argparse.Namespace) -> DenseModel:
    """Return the model of a row."""
    folder = args.out / "models" / row / str(seed)
    shutil.rmtree(folder, ignore_errors=True)  # of an interrupted run
    words = ["--recipe", RECIPE, "--out", str(folder), "--seed", str(seed)]
    words += ["--cache", str(args.out / "cache"), *ROWS.get(row, [])]
    if row == ALIGNED:
        first = args.out / "models" / FIRST / str(seed)
        if not (first / "model").exists():  # its units are those of the table
            trained(FIRST, seed, args)
        words += ["--begin", str(first / "model"), "--method.aligned", "reused"]
        words += ["--optim.lr", ALIGNED_LR, "--steps", str(ALIGNED_STEPS)]
        words += ["--validate_every", str(ALIGNED_STEPS)]
    fitted = train(words)
    assert fitted is not None
    return fitted.model


def scores_of(model: Any, tests: AbstractDataset, steps: int) -> Unit:
    """Return mean IoU in percent, and in the most steps the figures of the uncertainty."""
    model.method.sampler = replace(model.method.sampler, accumulate="last")
    number = steps if model.method.accepts_steps else None
    predictor = Predictor(model, Plan(batch_size=8, steps=number))
    result = evaluate(predictor, tests, uncertainty=steps == max(STEPS), baselines=model.baselines)
    scores = {name: row["mIoU, %"] for name, row in result.scores.items()}
    unit: Unit = {"measure": "miou", "higher_is_better": True, "score": scores["model"]}
    unit["constant"] = scores["constant majority"]
    unit |= {"uncertainty": dict(result.uncertainty)} if result.uncertainty else {}
    return unit


def price(row: str) -> tuple[float, float]:
    """Return the multiply-adds in GMAC (10^9), and the seconds of an image."""
    model = model_of(row).eval()
    image = torch.rand(3, SIDE, SIDE)
    predictor = Predictor(model)
    seconds = []
    for _ in range(TURNS + 1):
        start = time.perf_counter()
        predictor.one(image)
        seconds.append(time.perf_counter() - start)
    operations = cost(model.to("meta"), SIDE, SIDE).multiply_adds
    return operations / 1e9, statistics.median(seconds[1:])


def model_of(row: str) -> DenseModel:
    """Return a model of a row with random weights."""
    words = ["--recipe", RECIPE, "--out", "unused", *ROWS.get(row, [])]
    built = fit_parser().instantiate(parse(fit_parser(), words, fit))
    return DenseModel(task=built.task, method=built.method)


def tables_of(results: dict[str, list[list[Unit]]]) -> str:
    """Return both tables, and a line about the uncertainty.

    Args:
        results: by row, seed and number of steps.
    """
    usual = STEPS.index(USUAL)
    first = [units[usual]["score"] for units in results[FIRST]]
    by_steps, drift = [], []
    for row in (FIRST, ALIGNED):
        scores = [[unit["score"] for unit in units] for units in results[row]]
        by_steps.append(
            [row, *(interval(list(column), ".2f") for column in zip(*scores, strict=True))]
        )
        drift.append(interval([one[-1] - one[0] for one in scores], "+.2f"))
    body = []
    for row in ROWS:
        values = first if row == FIRST else [units[0]["score"] for units in results[row]]
        gap = [a - b for a, b in zip(values, first, strict=True)]
        operations, seconds = price(row)
        change = "" if row == FIRST else interval(gap, "+.2f")
        body.append([row, interval(values, ".2f"), change, f"{operations:.3f}", f"{seconds:.3f}"])
    constant = statistics.mean(units[usual]["constant"] for units in results[FIRST])
    doubts = [units[-1]["uncertainty"] for units in results[FIRST]]
    top = interval([100 * one["errors_in_top_10"] for one in doubts], ".1f")
    errors = (
        f"In {max(STEPS)} steps, the tenth of the pixels whose class changed most holds {top} % of "
        f"the errors; area under the sparsification error {_mean(doubts, 'ause')}, expected "
        f"calibration error {_mean(doubts, 'ece')}."
    )
    return "\n\n".join(
        [
            "Mean IoU in percent by the number of steps (figure 3a); from 1 to 10 steps it changes "
            f"by {drift[0]}, after self-aligned denoising by {drift[1]}:",
            table(("", *(f"{n} step{'s' * (n > 1)}" for n in STEPS)), by_steps),
            f"Three steps (table 5); the most frequent class has {constant:.2f}:",
            table(("row", "mIoU, %", "paired difference to DDP", "GMAC", "s"), body),
            errors,
        ]
    )


def _mean(rows: list[dict[str, float]], key: str) -> str:
    return interval([row[key] for row in rows], ".3f")


def main() -> None:
    """Train all rows and print the tables; seeds are in the outer loop."""
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
        write_block(RESULTS, "ddp_rooms", f"{command}\n\n{text}")


if __name__ == "__main__":
    main()
