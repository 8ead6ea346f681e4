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
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
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


def run(row: str, seed: int, args: argparse.Namespace, tests: AbstractDataset) -> Unit:
    """Return the scores of one training, and store them."""
    path = args.out / "units" / row / f"seed{seed}.json"
    claim_folder(path.parent, {})
    if path.is_file():
        return json.loads(path.read_text())
    folder = args.out / "models" / row / str(seed)
    words = ["--recipe", RECIPE, "--out", str(folder), "--seed", str(seed)]
    words += ["--cache", str(args.out / "cache"), *ROWS.get(row, [])]
    if row == ALIGNED:
        first = args.out / "models" / FIRST / str(seed) / "model"
        words += ["--begin", str(first), "--method.aligned", "reused"]
        words += ["--optim.lr", ALIGNED_LR, "--steps", str(ALIGNED_STEPS)]
        words += ["--validate_every", str(ALIGNED_STEPS)]
    fitted = train(words)
    assert fitted is not None
    unit = {"seed": seed, "measure": "miou", "higher_is_better": True}
    unit |= scores_of(fitted.model, tests, STEPS if row in (FIRST, ALIGNED) else (USUAL,))
    write_json(path, unit | {"score": unit["miou"][str(USUAL)]})
    return json.loads(path.read_text())


def scores_of(model: Any, tests: AbstractDataset, steps: tuple[int, ...]) -> Unit:
    """Return mean IoU in percent by steps, and the figures of the uncertainty."""
    unit: Unit = {"miou": {}}
    for number in steps:
        model.method.sampler = replace(model.method.sampler, accumulate="last")
        plan = Plan(batch_size=8, steps=number)
        result = evaluate(
            Predictor(model, plan), tests, uncertainty=number == 10, baselines=model.baselines
        )
        unit["miou"][str(number)] = result.scores["model"]["mIoU, %"]
        unit["constant"] = result.scores["constant majority"]["mIoU, %"]
        unit |= {"uncertainty": dict(result.uncertainty)} if result.uncertainty else {}
    return unit


def price(row: str) -> tuple[float, float]:
    """Return the multiply-adds in thousand millions, and the seconds of an image."""
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


def tables_of(results: dict[str, list[Unit]]) -> str:
    """Return both tables, and a line about the uncertainty."""
    first = [unit["score"] for unit in results[FIRST]]
    by_steps = [
        [row, *(interval([u["miou"][str(n)] for u in results[row]], ".2f") for n in STEPS)]
        for row in (FIRST, ALIGNED)
    ]
    drift = [
        interval([u["miou"]["10"] - u["miou"]["1"] for u in results[row]], "+.2f")
        for row in (FIRST, ALIGNED)
    ]
    body = []
    for row in ROWS:
        values = [unit["score"] for unit in results[row]]
        gap = [a - b for a, b in zip(values, first, strict=True)]
        operations, seconds = price(row)
        change = "" if row == FIRST else interval(gap, "+.2f")
        body.append([row, interval(values, ".2f"), change, f"{operations:.3f}", f"{seconds:.3f}"])
    constant = statistics.mean(unit["constant"] for unit in results[FIRST])
    doubts = [unit["uncertainty"] for unit in results[FIRST]]
    top = interval([100 * one["errors_in_top_10"] for one in doubts], ".1f")
    errors = (
        f"In 10 steps, the pixels whose class changed most, a tenth of all, hold {top} % of the "
    )
    errors += f"errors; area under the sparsification error {_mean(doubts, 'ause')}, expected "
    errors += f"calibration error {_mean(doubts, 'ece')}."
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
    results: dict[str, list[Unit]] = {row: [] for row in rows}
    for seed in range(args.seeds):
        for row in rows:
            results[row].append(run(row, seed, args, tests))
            say(f"{row} {seed}: {results[row][-1]['score']:.2f}\n")
    pack(args.out / "units", args.table)
    text = tables_of(results)
    say(text + "\n")
    if args.write:
        command = f"`python benchmarks/ddp_rooms.py --seeds {args.seeds} --write`"
        write_block(RESULTS, "ddp_rooms", f"{command}\n\n{text}")


if __name__ == "__main__":
    main()
