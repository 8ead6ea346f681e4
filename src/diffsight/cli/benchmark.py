"""``diffsight benchmark few-shot``: methods against one another on the same few labelled images."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffsight.cli.options import add_device, device_of, require_writable
from diffsight.errors import InputError

if TYPE_CHECKING:
    from diffsight.benchmark.run import Standing
    from diffsight.datasets.source import AbstractSource

log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="diffsight benchmark")
    commands = parser.add_subparsers(dest="name", required=True, metavar="few-shot")
    _options(
        commands.add_parser(
            "few-shot", description="Methods against one another on the same few images."
        )
    )
    args = parser.parse_args(argv)

    import torch

    from diffsight.benchmark.entrant import AbstractEntrant
    from diffsight.benchmark.entrants import entrants
    from diffsight.benchmark.report import write_report
    from diffsight.benchmark.run import benchmark
    from diffsight.benchmark.trivial_baselines import Stored
    from diffsight.benchmark.units import Settings
    from diffsight.hub.task_file import Base
    from diffsight.training.loop import Where

    if not args.report:
        require_writable(args.out)
        names = tuple(args.methods.split(","))
        dtype = torch.bfloat16 if args.dtype == "bfloat16" else None
        methods: dict[str, AbstractEntrant] = entrants(
            names, dino=args.dino, clip_side=args.clip_side
        )
        if args.predictions:
            methods["predictions"] = Stored(args.predictions)
        known = {*methods, *(path.parents[1].name for path in args.out.glob("**/shots*/rep*.json"))}
        if args.reference is not None and args.reference not in known:
            raise InputError(f"--reference {args.reference}: choose from {', '.join(methods)}")
        source = _source(args)
        benchmark(
            source,
            tasks=_usable(source, args.shots) if args.tasks == "all" else args.tasks.split(","),
            methods=methods,
            base=Base.load(args.backbone),
            out=args.out,
            repeats=args.repeats,
            settings=Settings(
                args.shots,
                args.minutes,
                args.steps,
                args.seed,
                args.short_side,
                args.clip,
                Where(torch.device(device_of(args)), dtype),
            ),
            shard=args.shard,
            announce=_announce,
            advance=_advance,
        )
        for name, reason in source.skipped.items():
            log.warning("skipped %s: %s", name, reason)
    sys.stdout.write(write_report(args.out, reference=args.reference))
    return 0


def _source(args: argparse.Namespace) -> "AbstractSource":
    from diffsight.datasets.nyu_few_shot import NYUFewShot
    from diffsight.datasets.taskonomy import Taskonomy
    from diffsight.rooms.source import RoomsSource

    if args.data == "rooms":
        count = 100 if args.max_images is None else args.max_images
        return RoomsSource(size=args.size, count=count)
    if args.root is None:
        raise InputError(f"--data {args.data} needs --root DIR, where its files are")
    if args.data == "taskonomy":
        found = Taskonomy(
            root=args.root, preset=args.preset, split=args.split, max_images=args.max_images
        )
        for task, folder in found.missing.items():
            log.warning("left out: %s: %s is not there", task, folder)
        if found.missing_buildings:
            log.warning("buildings without images: %s", ", ".join(found.missing_buildings))
        return found
    if args.max_images is not None:
        raise InputError("--max-images: NYU is scored on the images of --test-list")
    return NYUFewShot(root=args.root, normals=args.normals, test_list=args.test_list)


def _usable(source: "AbstractSource", shots: int) -> list[str]:
    """All tasks but those with too few images, such as a rare class of a part of Taskonomy.

    Raises:
        InputError: if none is left.
    """
    usable = []
    for task in source.tasks:
        known, asked = len(source.pool(task)), len(source.queries(task))
        if known < shots or not asked:
            log.warning(
                "left out: %s: %d images for %d shots, %d queries", task, known, shots, asked
            )
        else:
            usable.append(task)
    if not usable:
        raise InputError(f"{source.name}: no task has images for {shots} shots: ask for fewer")
    return usable


def _announce(units: int, done: int, minutes: float | None) -> None:
    cost = "" if minutes is None else f", about {minutes:.0f} min of learning"
    log.info("%d units, %d of them are there already%s", units, done, cost)


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


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the results")
    parser.add_argument(
        "--report", action="store_true", help="run nothing: tell what the folder holds"
    )
    group = parser.add_argument_group("data")
    group.add_argument("--data", choices=("rooms", "taskonomy", "nyu"), default="rooms")
    group.add_argument("--root", type=Path, metavar="DIR", help="of Taskonomy or NYU")
    group.add_argument("--preset", choices=("vtm", "clean", "native"), default="vtm")
    group.add_argument("--split", default="muleshoe", help="of Taskonomy: muleshoe or test")
    group.add_argument("--normals", type=Path, metavar="DIR", help="of NYU's images")
    group.add_argument("--test-list", type=Path, metavar="FILE", help="of NYU (default: all)")
    group.add_argument("--max-images", type=int, metavar="N", help="score only so many")
    group.add_argument("--size", type=int, default=64, metavar="PX", help="of rooms (default 64)")
    group = parser.add_argument_group("what is compared")
    group.add_argument("--tasks", default="all", metavar="A,B", help="default: all")
    group.add_argument(
        "--methods",
        default="auto,concepts,mean-map,constant",
        metavar="A,B",
        help="see docs/benchmark.md (default auto,concepts,mean-map,constant)",
    )
    group.add_argument(
        "--reference", metavar="A", help="differences to it (default: auto, or the first by name)"
    )
    group.add_argument("--shots", type=int, default=10, metavar="N")
    group.add_argument("--repeats", type=int, default=5, metavar="N")
    group.add_argument("--predictions", type=Path, metavar="DIR", help="DIR/TASK/ID.npy to score")
    group = parser.add_argument_group("how")
    group.add_argument("--backbone", default="tiny", metavar="tiny|DIR|ID")
    group.add_argument("--clip", metavar="DIR", help="CLIP vision model (default: the backbone's)")
    group.add_argument("--dino", metavar="DIR", help="a DINOv2 model, for dinov2-linear")
    group.add_argument("--clip-side", type=int, metavar="PX", help="input of clip-linear")
    group.add_argument("--minutes", type=float, default=1.5, help="of learning (default 1.5)")
    group.add_argument("--steps", type=int, metavar="N", help="of learning, instead")
    group.add_argument("--short-side", type=int, metavar="PX", help="working size of images")
    group.add_argument("--seed", type=int, default=0)
    add_device(group)
    group.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    group.add_argument("--shard", type=_shard, default=(0, 1), metavar="I/N", help="part of it")


def _shard(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r}: give 0/4 for the first of four parts")
    return int(number), int(count)
