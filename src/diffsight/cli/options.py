"""Options that several commands share: the plan, and where to run it."""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffsight.errors import InputError

if TYPE_CHECKING:
    from diffsight.inference import Plan, Predictor

DTYPES = ("float32", "bfloat16", "float16")
SOME_FAILED = 1  # exit status: some images could not be used, all others are done


def add_model(parser: argparse.ArgumentParser, *, tasks: bool = False) -> None:
    """``--model`` (or ``--task``), ``--device``, ``--dtype``."""
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument(
        "--model", metavar="DIR", help="folder of a saved model, or a hub id owner/name"
    )
    if tasks:
        group.add_argument(
            "--task",
            action="append",
            metavar="FILE",
            help="a file that `diffsight adapt` wrote; may be given several times",
        )
        add_backbone(parser)
    add_device(parser)
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="mixed precision (default float32: none)"
    )


def add_backbone(parser: argparse.ArgumentParser) -> None:
    """``--backbone``."""
    parser.add_argument(
        "--backbone",
        metavar="DIR",
        help="the frozen model that the task stands on, if it is not where the file says",
    )


def add_device(parser: "argparse._ActionsContainer") -> None:
    """``--device``."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: the GPU if there is one)")


def add_plan(parser: argparse.ArgumentParser) -> None:
    """How an image is run: a ``Plan``, option by option."""
    group = parser.add_argument_group("plan", "how an image is run; part of every result")
    group.add_argument(
        "--short-side",
        type=_short_side,
        default="training",
        metavar="N|training|own",
        help="pixels of the shorter side for the model: N, those of the training images where the "
        "model tells them (default), or the image's own",
    )
    group.add_argument(
        "--windows",
        type=int,
        default=1,
        metavar="N",
        help="1: the whole image; from 2: square windows along the longer side, averaged",
    )
    group.add_argument(
        "--tile", type=int, metavar="PX", help="side of square windows over both sides, averaged"
    )
    group.add_argument(
        "--stride", type=int, metavar="PX", help="from one window of --tile to the next"
    )
    group.add_argument(
        "--long-side", type=int, metavar="PX", help="most that --short-side may make of the longer"
    )
    group.add_argument(
        "--scales",
        type=_scales,
        default=(1.0,),
        metavar="S,S,...",
        help="run at these times the size and average the probabilities, such as 1,1.25,1.5",
    )
    group.add_argument("--flip", action="store_true", help="average with the mirrored image")
    group.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="windows of one size run together"
    )
    group.add_argument(
        "--noises",
        type=int,
        default=1,
        metavar="N",
        help="for methods that add noise: draws of it that are averaged (default 1)",
    )


def _scales(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _short_side(text: str) -> int | str:
    return text if text in ("training", "own") else int(text)


def plan_of(args: argparse.Namespace, config: Mapping[str, Any]) -> "Plan":
    """The plan that the options describe, for the model of ``config``."""
    from diffsight.inference import Plan
    from diffsight.inference.plan import short_side_px

    return Plan(
        short_side=short_side_px(args.short_side, config),
        long_side=args.long_side,
        windows=args.windows,
        tile=args.tile,
        stride=args.stride,
        scales=args.scales,
        flip=args.flip,
        noises=args.noises,
        batch_size=args.batch_size,
    )


def device_of(args: argparse.Namespace) -> str:
    """The device that ``--device`` names.

    Raises:
        InputError: if there is none of this name.
    """
    from diffsight.inference.pipeline import default_device, usable_device

    return usable_device(args.device or default_device())


def tell(console: Any, line: str) -> None:
    """Print a line as it is, whatever brackets and paths are in it."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def require_writable(out: Path) -> None:
    """Make the folder ``--out``; find out before the model is loaded, not after.

    Raises:
        InputError: if it cannot be made or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{out}: cannot be written ({reason}): choose another --out") from None


def predictor_of(
    args: argparse.Namespace, source: str | Path, bases: dict[str, Any] | None = None
) -> tuple["Predictor", Mapping[str, Any]]:
    """A model on its device with the plan, and what is written about it.

    Args:
        args: with the options of ``add_plan`` and ``add_device``.
        source: folder, hub id or task file.
        bases: frozen models that tasks share.

    Raises:
        InputError: if the model, the device or the plan cannot be used.
    """
    import torch

    from diffsight import hub
    from diffsight.inference import Predictor

    device = device_of(args)
    backbone = getattr(args, "backbone", None)
    model, config = hub.open_model(source, backbone=backbone, bases=bases)
    autocast = None if args.dtype == "float32" else getattr(torch, args.dtype)
    return Predictor(model, plan_of(args, config), device=device, autocast=autocast), config
