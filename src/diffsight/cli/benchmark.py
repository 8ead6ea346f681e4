"""``diffsight benchmark few-shot``: compare methods on the same few labelled images."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffsight.cli.options import (
    TRAINING_DTYPES,
    add_device,
    add_dtype,
    add_steps_and_side,
    add_trust,
    device_of,
    dtype_of,
    require_writable,
)
from diffsight.errors import InputError

if TYPE_CHECKING:
    from diffsight.benchmark.methods import BenchmarkMethod
    from diffsight.benchmark.run import Standing
    from diffsight.benchmark.source import BenchmarkSource

log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="diffsight benchmark")
    commands = parser.add_subparsers(dest="name", required=True, metavar="few-shot")
    _add_options(
        commands.add_parser(
            "few-shot", description="Compare methods on the same few labelled images."
        )
    )
    args = parser.parse_args(argv)

    import torch

    from diffsight.backbones import BackboneSource
    from diffsight.benchmark.report import write_report
    from diffsight.benchmark.run import benchmark
    from diffsight.benchmark.units import Settings
    from diffsight.training.loop import Runtime

    if not args.report:
        require_writable(args.out)
        methods = _methods(args)
        source = _source(args)
        for note in source.notes:
            log.warning("%s", note)
        benchmark(
            source,
            tasks=_usable(source, args.shots) if args.tasks == "all" else args.tasks.split(","),
            methods=methods,
            pretrained=BackboneSource(args.backbone),
            out=args.out,
            repeats=args.repeats,
            settings=Settings(
                shots=args.shots,
                minutes=args.minutes,
                steps=args.steps,
                seed=args.seed,
                short_side=args.short_side,
                clip=args.clip,
                runtime=Runtime(torch.device(device_of(args)), dtype_of(args)),
            ),
            shard=args.shard,
            announce=_announce,
            advance=_advance,
        )
        for reason in source.skipped:
            log.warning("skipped %s", reason)
    sys.stdout.write(write_report(args.out, reference=args.reference))
    return 0


def _methods(args: argparse.Namespace) -> "dict[str, BenchmarkMethod]":
    """Return the rows of the table.

    Raises:
        InputError: for an unknown method or reference.
    """
    from diffsight.benchmark.registry import benchmark_methods
    from diffsight.benchmark.trivial_baselines import Stored
    from diffsight.cli.recipe import package_of

    names = tuple(args.methods.split(","))
    # a class that is typed on the command line is trusted
    typed = (package for name in names for package in package_of(name))
    methods = benchmark_methods(
        names, dino=args.dino, clip_side=args.clip_side, trusted=(*args.trust, *typed)
    )
    if args.predictions:
        methods["predictions"] = Stored(args.predictions)
    rows = {*methods, *(path.parents[1].name for path in args.out.glob("**/shots*/rep*.json"))}
    if args.reference is not None and args.reference not in rows:
        raise InputError(f"--reference {args.reference}: choose from {', '.join(methods)}")
    return methods


def _source(args: argparse.Namespace) -> "BenchmarkSource":
    from diffsight.benchmark.nyu import nyu_source
    from diffsight.benchmark.rooms import rooms_source
    from diffsight.benchmark.taskonomy import taskonomy_source

    if args.data == "rooms":
        count = 100 if args.max_images is None else args.max_images
        return rooms_source(size=args.size, count=count)
    if args.root is None:
        raise InputError(f"--data {args.data} needs --root DIR, where its files are")
    if args.data == "taskonomy":
        return taskonomy_source(
            root=args.root, preset=args.preset, split=args.split, max_images=args.max_images
        )
    if args.max_images is not None:
        raise InputError("--max-images: NYU is scored on the images of --test-list")
    return nyu_source(root=args.root, normals=args.normals, test_list=args.test_list)


def _usable(source: "BenchmarkSource", shots: int) -> list[str]:
    """Return all tasks but those with too few images, such as a rare class of Taskonomy.

    Raises:
        InputError: if none is left.
    """
    usable = []
    for name, task in source.tasks.items():
        train, test = len(task.train), len(task.test)
        if train < shots or not test:
            log.warning(
                "left out: %s: %d images for %d shots, %d to score", name, train, shots, test
            )
        else:
            usable.append(name)
    if not usable:
        raise InputError(f"{source.name}: no task has images for {shots} shots: ask for fewer")
    return usable


def _announce(units: int, done: int, minutes: float | None) -> None:
    cost = "" if minutes is None else f", about {minutes:.0f} min of training"
    log.info("%d units, %d of them are finished%s", units, done, cost)


def _advance(standing: "Standing") -> None:
    unit = standing.unit
    log.info(
        "%d/%d  %s  %s  repeat %d: %.4g  (about %.0f min left)",
        standing.done,
        standing.units,
        unit.task,
        unit.method,
        unit.repeat,
        standing.score,
        standing.seconds_left / 60,
    )


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of results")
    parser.add_argument(
        "--report", action="store_true", help="run nothing, report what the folder holds"
    )
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        choices=("rooms", "taskonomy", "nyu"),
        default="rooms",
        help="what methods are compared on (default: rooms)",
    )
    group.add_argument(
        "--root", type=Path, metavar="DIR", help="folder of Taskonomy or NYU, which need it"
    )
    group.add_argument(
        "--preset",
        choices=("vtm", "clean", "native"),
        default="vtm",
        help="how Taskonomy is scored, see docs/benchmark.md (default: vtm)",
    )
    group.add_argument(
        "--split",
        default="muleshoe",
        help="buildings of Taskonomy that are scored: test, val, or one of them (default: "
        "muleshoe)",
    )
    group.add_argument(
        "--normals", type=Path, metavar="DIR", help="folder of normals for NYU (default: none)"
    )
    group.add_argument(
        "--test-list",
        type=Path,
        metavar="FILE",
        help="list of NYU's images that are scored (default: all)",
    )
    group.add_argument(
        "--max-images",
        type=int,
        metavar="N",
        help="score only N images (default: 100 of rooms, all of Taskonomy)",
    )
    group.add_argument(
        "--size", type=int, default=64, metavar="N", help="pixels of a room's side (default: 64)"
    )
    _add_comparison(parser)
    _add_training(parser)


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("comparison")
    group.add_argument(
        "--tasks", default="all", metavar="A,B", help="names of tasks (default: all)"
    )
    group.add_argument(
        "--methods",
        default="auto,few_shot,mean-map,constant",
        metavar="A,B",
        help="names of docs/benchmark.md, or classes of your own (package.Class) (default: "
        "auto,few_shot,mean-map,constant)",
    )
    group.add_argument(
        "--reference",
        metavar="A",
        help="method that the others are compared with (default: auto, or the first by name)",
    )
    group.add_argument(
        "--shots", type=int, default=10, metavar="N", help="labelled images (default: 10)"
    )
    group.add_argument(
        "--repeats",
        type=int,
        default=5,
        metavar="N",
        help="draws of the labelled images (default: 5)",
    )
    group.add_argument(
        "--predictions",
        type=Path,
        metavar="DIR",
        help="predictions of another program to score too: DIR/TASK/ID.npy",
    )
    add_trust(group)


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument(
        "--backbone",
        default="tiny",
        metavar="tiny|DIR|ID",
        help="frozen model: the one of the package, a folder or a hub id (default: tiny)",
    )
    group.add_argument(
        "--clip",
        metavar="DIR|ID",
        help="CLIP vision model (default: that of the backbone, else CLIP ViT-L/14 from the hub)",
    )
    group.add_argument("--dino", metavar="DIR", help="DINOv2 model, for dinov2-linear")
    group.add_argument(
        "--clip-side",
        type=int,
        metavar="N",
        help="pixels of the input of clip-linear (default: the model's)",
    )
    group.add_argument(
        "--minutes",
        type=float,
        default=1.5,
        metavar="FLOAT",
        help="time of one training (default: 1.5)",
    )
    add_steps_and_side(group)
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of everything random (default: 0)"
    )
    add_device(group)
    add_dtype(group, TRAINING_DTYPES)
    group.add_argument(
        "--shard",
        type=_shard,
        default=(0, 1),
        metavar="I/N",
        help="run part I of N, counted from 0, such as 0/4 (default: 0/1)",
    )


def _shard(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r}: give 0/4 for the first of four parts")
    return int(number), int(count)
