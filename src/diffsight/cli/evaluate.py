"""``diffsight evaluate``: score a model, and baselines that never see the image."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffsight.cli.options import (
    add_device,
    add_dtype,
    add_model,
    add_plan,
    load_predictor,
    write_line,
)
from diffsight.errors import InputError

if TYPE_CHECKING:
    from diffsight.datasets.base import AbstractDataset
    from diffsight.inference.evaluate import Evaluation
    from diffsight.model import DenseModel

WIDE = 130  # columns of the table where the output is no terminal


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)

    from rich.console import Console
    from rich.progress import Progress

    from diffsight import hub, protocols
    from diffsight.inference.api import oracle_baselines
    from diffsight.inference.evaluate import evaluate, protocol_for

    _check_options(args)
    if args.protocol:
        protocols.get(args.protocol)  # an unknown name is refused before anything is loaded
    dataset = None if args.images else _dataset(args)
    predictor = load_predictor(args, args.model)
    model = predictor.model
    if dataset is None:
        dataset = _labelled_folder(args, model)
    dataset = _limited(dataset, args.limit)
    protocol = None
    if args.protocol:
        protocol = protocol_for(args.protocol, model, oracle_scene=args.oracle_scene)
    baselines = hub.read_baselines(args.model) or oracle_baselines(dataset, model.task)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        row = bar.add_task("evaluating", total=len(dataset))
        result = evaluate(
            predictor, dataset, protocol, baselines=baselines, advance=lambda: bar.advance(row)
        )
    about = {"model": {"id": args.model, "fingerprint": model.info["fingerprint"]}}
    _write_report(args, result, about | result.as_dict())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="diffsight evaluate",
        description="Score a model, and baselines that never look at an image: for depth the "
        "constant median and the mean map of the training labels.",
    )
    add_model(parser)
    parser.add_argument(
        "--protocol",
        metavar="ID",
        help="evaluation protocol, such as nyu-eigen-v1 (default: the metric of the model's task "
        "over all labelled pixels)",
    )
    _add_data(parser)
    parser.add_argument(
        "--oracle-scene",
        action="store_true",
        help="give the model the scene type of each sample, with protocols of depth (default: no)",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="use only the first N samples (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the JSON report to FILE too"
    )
    parser.add_argument(
        "--record", action="store_true", help="store the result in the saved model and its card"
    )
    add_device(parser)
    add_dtype(parser)
    add_plan(parser)
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a data set."""
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
        help="recipe whose validation set is used (default: that of the model's training)",
    )
    data.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder of images whose labels are in --labels",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="DIR",
        help="folder of labels with the names of the images, in the form that the model learned",
    )
    parser.add_argument("--unit", help="unit of one stored count of --labels, as for adapt")
    parser.add_argument(
        "--invalid", type=float, metavar="N", help='stored count of --labels for "no label"'
    )


def _check_options(args: argparse.Namespace) -> None:
    if args.limit is not None and args.limit < 1:
        raise InputError(f"--limit must be at least 1, got {args.limit}")
    if (args.images is None) != (args.labels is None):
        raise InputError("--images and --labels belong together: give both, or neither")
    if args.oracle_scene and not args.protocol:
        raise InputError("--oracle-scene is a rule of a protocol: give --protocol")
    for name in ("unit", "invalid"):
        if getattr(args, name) is not None and not args.labels:
            raise InputError(f"--{name} is for --labels: leave it out")


def _dataset(args: argparse.Namespace) -> "AbstractDataset":
    from diffsight import hub
    from diffsight.cli.recipe import data_of, data_of_recipe

    if args.data:
        return data_of(args.data, trusted=args.trust)
    recipe = args.recipe or _recipe_of(hub.resolve(args.model).path)
    return data_of_recipe(recipe, "val", trusted=args.trust)


def _recipe_of(path: Path) -> Path:
    """Return ``recipe.yaml`` in the model's folder, or above it, where ``fit`` writes it."""
    for place in (path, path.resolve().parent):
        if (place / "recipe.yaml").is_file():
            return place / "recipe.yaml"
    raise InputError(
        f"{path}: no recipe.yaml in or above it says what to evaluate on: give --data, --recipe, "
        "or --images and --labels"
    )


def _labelled_folder(args: argparse.Namespace, model: "DenseModel") -> "AbstractDataset":
    from diffsight.inference.api import labelled_folder

    return labelled_folder(model, args.images, args.labels, unit=args.unit, invalid=args.invalid)


def _limited(dataset: "AbstractDataset", limit: int | None) -> "AbstractDataset":
    from diffsight.inference.evaluate import First

    return dataset if limit is None else First(dataset, limit)


def _write_report(args: argparse.Namespace, result: "Evaluation", report: dict[str, Any]) -> None:
    from diffsight import hub
    from diffsight.datasets.files import replacing

    text = json.dumps(report, indent=1) + "\n"
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(args.out) as partial:
            partial.write_text(text, encoding="utf-8")
    if args.record:
        hub.record(args.model, result.as_dict())
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
    # lines of their own, which stay readable where the table is cut
    for line in _captions(result):
        write_line(console, line)


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
            "(oracle)  made of the evaluated labels: the model has no baselines of its training"
        )
    return lines
