"""``diffsight evaluate``: score a model under a protocol, beside what never sees the image."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffsight.cli.options import add_model, add_plan, predictor_of, tell
from diffsight.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from diffsight.datasets.base import AbstractDataset
    from diffsight.inference.evaluate import Evaluation
    from diffsight.tasks.base import AbstractTask

WIDE = 130  # columns of the table where the output is no terminal


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)

    from rich.console import Console
    from rich.progress import Progress

    from diffsight import hub, protocols
    from diffsight.inference.evaluate import First, evaluate, protocol_for

    protocols.get(args.protocol)  # an unknown name is told before anything is loaded
    folder = hub.resolve(args.model)
    config = hub.read_config(folder)
    dataset = _dataset(args, folder)
    if args.limit is not None:
        dataset = First(dataset, args.limit)
    predictor, _ = predictor_of(args, folder)
    protocol = protocol_for(args.protocol, predictor.model, oracle_scene=args.oracle_scene)
    beside = _beside(folder, dataset, predictor.model.task)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        row = bar.add_task("evaluating", total=len(dataset))
        result = evaluate(
            predictor, dataset, protocol, beside=beside, advance=lambda: bar.advance(row)
        )
    about = {"model": {"id": args.model, "fingerprint": config.get("fingerprint")}}
    _give(args, result, about | result.as_dict(), folder)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="diffsight evaluate",
        description="Score a model under a protocol, beside predictors that never look at an "
        "image: for depth the constant median and the mean map of the training labels.",
    )
    parser.add_argument("--protocol", required=True, metavar="ID", help="such as nyu-eigen-v1")
    data = parser.add_mutually_exclusive_group()
    data.add_argument(
        "--data",
        nargs="+",
        metavar=("CLASS", "KEY=VALUE"),
        help="data set and its arguments, such as: Folder root=pairs unit=mm",
    )
    data.add_argument(
        "--recipe",
        metavar="FILE|NAME",
        help="recipe whose validation set is evaluated (default: that of the model's training)",
    )
    parser.add_argument(
        "--oracle-scene", action="store_true", help="tell the model the scene that the sample names"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N samples")
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the JSON report to FILE too"
    )
    parser.add_argument(
        "--record", action="store_true", help="note the result in the model's config.json and card"
    )
    add_model(parser)
    add_plan(parser)
    return parser


def _dataset(args: argparse.Namespace, folder: Path) -> "AbstractDataset":
    from diffsight.cli.recipe import data_of, data_of_recipe

    if args.limit is not None and args.limit < 1:
        raise InputError(f"--limit must be at least 1, got {args.limit}")
    if args.data:
        return data_of(args.data)
    return data_of_recipe(args.recipe or _recipe_of(folder), "val")


def _recipe_of(folder: Path) -> Path:
    """``recipe.yaml`` in the model's folder, or above it, where ``fit`` writes it."""
    for place in (folder, folder.resolve().parent):
        if (place / "recipe.yaml").is_file():
            return place / "recipe.yaml"
    raise InputError(
        f"{folder}: no recipe.yaml in or above it says what to evaluate on: give --data or --recipe"
    )


def _beside(folder: Path, dataset: "AbstractDataset", task: "AbstractTask") -> dict[str, "Tensor"]:
    """The predictors that the table shows beside the model."""
    from diffsight.inference.evaluate import read_rivals
    from diffsight.training.baselines import baselines

    if known := read_rivals(folder):
        return known
    return {f"{name} (oracle)": one for name, one in baselines(dataset, task).items()}


def _give(
    args: argparse.Namespace, result: "Evaluation", report: dict[str, Any], folder: Path
) -> None:
    from diffsight import hub
    from diffsight.datasets.files import replacing

    text = json.dumps(report, indent=1) + "\n"
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(args.out) as partial:
            partial.write_text(text, encoding="utf-8")
    if args.record:
        hub.record(folder, result.as_dict())
    if args.json:
        sys.stdout.write(text)
        return
    show(result)


def show(result: "Evaluation") -> None:
    """Print the table and what it depends on to stdout."""
    from rich.console import Console

    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=WIDE)
    console.print(_table(result))
    # facts of the result, not decoration: they stay on lines of their own where the table is cut
    # out
    for line in _captions(result):
        tell(console, line)


def _table(result: "Evaluation") -> Any:
    from rich.table import Table

    names = list(result.scores["model"])
    table = Table("", *names)
    for name, row in result.scores.items():
        table.add_row(name, *(f"{row[measure]:.4f}" for measure in names))
    return table


def _captions(result: "Evaluation") -> list[str]:
    skipped = f", {result.skipped} skipped (no pixel counts)" if result.skipped else ""
    lines = [
        f"protocol  {result.protocol.describe()}",
        f"plan      {result.plan.describe()}",
        f"data      {result.data}: {result.images} {result.protocol.unit}{skipped}, "
        f"{result.seconds_per_image:.3g} s each",
    ]
    if result.classes:
        shares = (f"{name} {iou:.3f}" for name, iou in result.classes.items())
        lines.append(f"IoU       {', '.join(shares)}")
    if any("oracle" in name for name in result.scores):
        lines.append(
            "(oracle)  made of the evaluated labels: the model brought no baselines of its own"
        )
    return lines
