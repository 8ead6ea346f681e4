"""Measure bird's-eye-view maps of streets: DDP with and without diffusion, LiDAR and more steps.

The recipes streets/ddp_cameras and streets/ddp_cameras_lidar are trained from scratch; rows are
compared by pairs of equal seed. All rows and two baselines without an image are scored on the same
unseen streets. Finished runs are stored as rows of ``--table`` and are not repeated.

    python benchmarks/streets.py [--seeds 3] [--out DIR] [--table CSV] [--write]
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from pretrained import FROM_SCRATCH
from reporting import RESULTS, claim_folder, interval, say, table, write_block, write_json
from tables import TABLES, pack, unpack

from diffsight import protocols
from diffsight.cli.fit import train
from diffsight.cli.recipe import read
from diffsight.datasets.base import AbstractDataset
from diffsight.inference import Plan, Predictor
from diffsight.inference.evaluate import evaluate
from diffsight.ops.memory import keep_freed_memory
from diffsight.streets import Streets
from diffsight.training.preload import InMemory

TESTS = 150
CAMERAS, LIDAR = "streets/ddp_cameras", "streets/ddp_cameras_lidar"
DECODER = {"width": 64, "layers": 3, "hidden": 128, "time_width": None}
NO_DIFFUSION = [
    *("--method.encoding", "null"),
    *("--method.decoder", json.dumps({"class_path": "MapDecoder", "init_args": DECODER})),
]
# rows: recipe, options that change it, and numbers of denoising steps to score
ROWS: dict[str, tuple[str, list[str], tuple[int | None, ...]]] = {
    "six cameras": (CAMERAS, [], (1, 3)),
    "six cameras, no diffusion": (CAMERAS, NO_DIFFUSION, (None,)),
    "six cameras and LiDAR": (LIDAR, [], (1, 3)),
    "six cameras and LiDAR, no diffusion": (LIDAR, NO_DIFFUSION, (None,)),
}
FIRST = "six cameras, 3 steps"
BASELINES = ("constant mean", "mean map")
Unit = dict[str, Any]


def name_of(row: str, steps: int | None) -> str:
    """Return the name of the stored scores of a row with a number of steps."""
    return row if steps is None else f"{row}, {steps} step{'s' * (steps > 1)}"


def run(row: str, seed: int, args: argparse.Namespace, tests: AbstractDataset) -> dict[str, Unit]:
    """Return the scores of one run, one unit by name for each number of steps.

    Stored scores are read; otherwise the model is trained, and its scores are stored.
    """
    recipe, changes, numbers = ROWS[row]
    steps_by_name = {name_of(row, n): n for n in numbers}
    files = {name: args.out / "units" / name / f"seed{seed}.json" for name in steps_by_name}
    for path in files.values():
        claim_folder(path.parent, {"weights": FROM_SCRATCH})
    if not all(path.is_file() for path in files.values()):
        folder = args.out / "models" / row / str(seed)
        shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted run
        options = ["--recipe", recipe, "--out", str(folder), "--seed", str(seed), *changes]
        fitted = train([*options, "--cache", str(args.out / "cache")])
        assert fitted is not None
        for name, steps in steps_by_name.items():
            predictor = Predictor(fitted.model, Plan(batch_size=8, steps=steps))
            rules = protocols.get("maps-v1")
            result = evaluate(predictor, tests, rules, baselines=fitted.model.baselines)
            unit: Unit = {"seed": seed, "measure": "miou", "higher_is_better": True}
            unit["score"] = 100 * result.scores["model"]["miou"]
            unit |= {b: 100 * result.scores[b]["miou"] for b in BASELINES}
            unit["classes"] = {k: 100 * v for k, v in result.classes.items()}
            write_json(files[name], unit)
            say(f"{name} {seed}: {unit['score']:.2f}\n")
    return {name: json.loads(path.read_text()) for name, path in files.items()}


def table_of(results: dict[str, list[Unit]]) -> str:
    """Return the table of all rows; the baselines without an image come last."""
    first = [unit["score"] for unit in results[FIRST]]
    classes = list(results[FIRST][0]["classes"])
    body = []
    for name, units in results.items():
        scores = [unit["score"] for unit in units]
        gap = [a - b for a, b in zip(scores, first, strict=True)]
        change = "" if name == FIRST else interval(gap, "+.1f")
        parts = (interval([unit["classes"][k] for unit in units], ".1f") for k in classes)
        body.append([name, interval(scores, ".1f"), change, *parts])
    for name in BASELINES:
        body.append([name, f"{results[FIRST][0][name]:.1f}", "", *[""] * len(classes)])
    return table(("row", "mean IoU, %", f"paired difference to {FIRST}", *classes), body)


def main() -> None:
    """Train all rows, one seed after another, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/streets"), help="working folder")
    parser.add_argument("--table", type=Path, default=TABLES / "streets.csv", help="stored runs")
    parser.add_argument("--write", action="store_true", help="write the table to docs/results.md")
    args = parser.parse_args()
    keep_freed_memory()
    claim_folder(args.out, {name: read(name)["steps"] for name in (CAMERAS, LIDAR)})
    unpack(args.table, args.out / "units")
    streets = Streets(split="test", count=TESTS)
    tests = InMemory(streets, [streets[index] for index in range(TESTS)])
    results: dict[str, list[Unit]] = {}
    for seed in range(args.seeds):
        for row in ROWS:
            for name, unit in run(row, seed, args, tests).items():
                results.setdefault(name, []).append(unit)
        pack(args.out / "units", args.table)
    text = table_of(results)
    say(text + "\n")
    if args.write:
        command = f"`python benchmarks/streets.py --seeds {args.seeds} --write`"
        write_block(RESULTS, "streets", f"{command}\n\n{text}")


if __name__ == "__main__":
    main()
