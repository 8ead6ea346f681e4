"""``diffsight generate``: turn texts into images with a text-to-image diffusion model."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from diffsight.cli.options import add_device, device_of
from diffsight.errors import InputError


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)
    _check_out(args.out)

    from einops import rearrange
    from PIL import Image
    from rich.console import Console
    from rich.progress import Progress

    from diffsight.datasets.files import replacing
    from diffsight.inference.generate import generate

    device = device_of(args)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        row = bar.add_task("generating", total=len(args.prompts) * args.count * args.steps)
        images = generate(
            args.prompts,
            model=args.model,
            count=args.count,
            steps=args.steps,
            guidance=args.guidance,
            size=args.size,
            seed=args.seed,
            negative=args.negative,
            device=device,
            advance=lambda images: bar.advance(row, images),
        )
    grid = rearrange(images, "(p n) c h w -> (p h) (n w) c", n=args.count)
    with replacing(args.out) as partial:
        Image.fromarray(grid.numpy()).save(partial, format="PNG")
    sys.stdout.write(f"{args.out}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="diffsight generate",
        description="Turn texts into images. Several images make one picture: a row per prompt, a "
        "column per seed.",
    )
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="description of the image")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE.png", help="the picture to write"
    )
    parser.add_argument(
        "--model",
        default="tiny",
        metavar="tiny|DIR",
        help="the model of the package, or a Stable Diffusion folder in diffusers' layout "
        "(default: tiny)",
    )
    parser.add_argument(
        "--count", type=int, default=1, metavar="N", help="images per prompt (default: 1)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the first image; the next one has the next (default: 0)",
    )
    parser.add_argument(
        "--steps", type=int, default=30, metavar="N", help="steps of the solver (default: 30)"
    )
    parser.add_argument(
        "--guidance",
        type=float,
        default=4.0,
        metavar="X",
        help="weight of the text (classifier-free guidance); 1 is without guidance (default: 4)",
    )
    parser.add_argument(
        "--size",
        type=int,
        metavar="N",
        help="side of an image in pixels (default: that of the training images)",
    )
    parser.add_argument(
        "--negative",
        default="",
        metavar="TEXT",
        help="what the image must not show (default: nothing)",
    )
    add_device(parser)
    return parser


def _check_out(out: Path) -> None:
    """Refuse a name that cannot be written, before the model runs."""
    if out.suffix.lower() != ".png":
        raise InputError(f"--out {out}: a PNG is written: give a name that ends in .png")
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{out}: cannot be written ({reason}): choose a folder that exists and is writable"
        ) from None
