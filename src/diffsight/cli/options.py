"""Options that several commands share: the model, the plan, and where it runs."""

import argparse
import tempfile
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffsight.errors import InputError
from diffsight.label_maps import clean_name

if TYPE_CHECKING:
    import torch

    from diffsight.inference import Plan, Predictor
    from diffsight.model import DenseModel
    from diffsight.types import Latents

DTYPES = ("float32", "bfloat16", "float16")
TRAINING_DTYPES = DTYPES[:2]  # float16 would need its loss scaled
SOME_FAILED = 1  # exit status: some images could not be used, all others are done


def add_model(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add ``--model``, ``--backbone`` and ``--trust``.

    Args:
        parser: of the command.
        several: whether ``--model`` may be given several times.
    """
    text = "saved model: a folder, a .safetensors file, the folder of a training, or a hub id"
    if several:
        parser.add_argument(
            "--model",
            action="append",
            required=True,
            metavar="PATH|ID",
            help=f"{text}; repeat it to run several models",
        )
    else:
        parser.add_argument("--model", required=True, metavar="PATH|ID", help=text)
    parser.add_argument(
        "--backbone",
        metavar="DIR|ID",
        help="where the frozen model is that the saved one refers to (default: where it was)",
    )
    add_trust(parser)


def add_prompt(parser: argparse.ArgumentParser) -> "argparse._MutuallyExclusiveGroup":
    """Add ``--scene`` and ``--expression``; return their group."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--scene",
        metavar="NAME",
        help="scene type of the images, such as kitchen, for models with a table of them "
        "(default: the mean of the table)",
    )
    group.add_argument(
        "--expression",
        metavar="TEXT",
        help="sentence about the images, for models that read one, such as what to find",
    )
    return group


def add_trust(parser: "argparse._ActionsContainer") -> None:
    """Add ``--trust``."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="allow classes of this package in recipes and saved models, which runs its code; "
        "repeat it for several packages (default: diffsight only)",
    )


def add_device(parser: "argparse._ActionsContainer") -> None:
    """Add ``--device``."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: the GPU if there is one)")


def add_dtype(parser: "argparse._ActionsContainer", choices: Sequence[str] = DTYPES) -> None:
    """Add ``--dtype``."""
    parser.add_argument(
        "--dtype",
        choices=choices,
        default="float32",
        help="precision: that of the weights, or mixed (default: float32, no mixed precision)",
    )


def add_steps_and_side(group: "argparse._ActionsContainer") -> None:
    """Add ``--steps`` and ``--short-side`` of trainings on few images."""
    group.add_argument(
        "--steps", type=int, metavar="N", help="steps of every training (default: by --minutes)"
    )
    group.add_argument(
        "--short-side",
        type=int,
        metavar="N",
        help="pixels of the shorter side that images are resized to (default: the backbone's)",
    )


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Add the options of a ``Plan``: how an image is run."""
    group = parser.add_argument_group("plan", "how an image is run; part of every result")
    group.add_argument(
        "--short-side",
        type=_short_side,
        default="training",
        metavar="N|training|own",
        help="resize the shorter side to N pixels, to that of the training images, or keep the "
        "image's own size (default: training, or own where the model does not record it)",
    )
    group.add_argument(
        "--long-side",
        type=int,
        metavar="N",
        help="most pixels of the longer side after --short-side (default: no limit)",
    )
    _add_windows(group)
    group.add_argument(
        "--ensemble-size",
        type=int,
        default=1,
        metavar="N",
        help="passes with different noise that are averaged, for methods that add noise "
        "(default: 1)",
    )
    group.add_argument(
        "--batch-size",
        type=int,
        default=1,
        metavar="N",
        help="windows of one size that run together; changes the speed only (default: 1)",
    )


def _add_windows(group: "argparse._ArgumentGroup") -> None:
    """Add the options of several passes over an image."""
    group.add_argument(
        "--windows",
        type=int,
        default=1,
        metavar="N",
        help="1 runs the whole image; 2 or more run square windows along the longer side and "
        "average them (default: 1)",
    )
    group.add_argument(
        "--tile",
        type=int,
        metavar="N",
        help="side in pixels of square windows over both sides of the image, which are averaged; "
        "needs --stride (default: none)",
    )
    group.add_argument(
        "--stride",
        type=int,
        metavar="N",
        help="pixels from one window of --tile to the next (default: none)",
    )
    group.add_argument(
        "--scales",
        type=_scales,
        default=(1.0,),
        metavar="S,S,...",
        help="run the image at these multiples of its size and average the probabilities, such as "
        "1,1.25,1.5 (default: 1)",
    )
    group.add_argument(
        "--flip", action="store_true", help="average with the mirrored image (default: no)"
    )


def _scales(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _short_side(text: str) -> int | str:
    return text if text in ("training", "own") else int(text)


def plan_of(args: argparse.Namespace, model: "DenseModel") -> "Plan":
    """Return the plan that the options describe for a model."""
    from diffsight.inference import Plan
    from diffsight.inference.plan import short_side_px

    return Plan(
        short_side=short_side_px(args.short_side, model.info),
        long_side=args.long_side,
        windows=args.windows,
        tile=args.tile,
        stride=args.stride,
        scales=args.scales,
        flip=args.flip,
        ensemble_size=args.ensemble_size,
        batch_size=args.batch_size,
    )


def device_of(args: argparse.Namespace) -> str:
    """Return the device that ``--device`` names.

    Raises:
        InputError: if there is none of this name.
    """
    from diffsight.inference.pipeline import default_device, usable_device

    return usable_device(args.device or default_device())


def dtype_of(args: argparse.Namespace) -> "torch.dtype | None":
    """Return the type of mixed precision that ``--dtype`` names; None for the weights' own."""
    import torch

    return None if args.dtype == "float32" else getattr(torch, args.dtype)


def write_line(console: Any, line: str) -> None:
    """Print a line as it is, whatever brackets and paths are in it."""
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """Return lines without control characters: names in files must not move the cursor."""
    return "\n".join(map(clean_name, text.split("\n")))


def require_writable(out: Path) -> None:
    """Make the folder ``--out``, before the model is loaded.

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


def load_predictor(
    args: argparse.Namespace,
    source: str,
    *,
    shared: MutableMapping[str, Any] | None = None,
    latents: "Latents | None" = None,
) -> "Predictor":
    """Return a saved model on its device, with the plan of the options.

    Args:
        args: with the options of ``add_model`` and ``add_plan``.
        source: what ``--model`` names.
        shared: frozen parts that several models share.
        latents: of images, shared with other models.

    Raises:
        InputError: if the model, the device or the plan cannot be used.
    """
    from diffsight import hub
    from diffsight.inference import Predictor

    device = device_of(args)
    model = hub.load(source, trusted=args.trust, backbone=args.backbone, shared=shared)
    plan = plan_of(args, model)
    return Predictor(model, plan, device=device, dtype=dtype_of(args), latents=latents)
