"""Measure the standard deviation of a data set's latents, by which EVP divides them."""

import argparse
import json
import sys
from collections.abc import Sequence

from diffsight.cli.options import add_trust
from diffsight.errors import InputError


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)

    from rich.console import Console
    from rich.progress import track

    from diffsight.backbones.stable_diffusion import StableDiffusion
    from diffsight.cli.recipe import data_of_recipe, read
    from diffsight.datasets.base import AbstractTransform
    from diffsight.hub.build import construct
    from diffsight.inference.latents import deviation
    from diffsight.tasks.base import AbstractTask
    from diffsight.training.data import TrainingStream

    if args.images < 1:
        raise InputError(f"--images must be at least 1, got {args.images}")
    recipe = read(args.recipe)
    try:
        call = recipe["method"]["init_args"]["backbone"]
        task = construct(AbstractTask, recipe["task"], where="task", trusted=args.trust)
    except (KeyError, TypeError):
        raise InputError(f"{args.recipe}: no task and method with a backbone in it") from None
    # others have no latents
    backbone = construct(StableDiffusion, call, where="method.backbone", trusted=args.trust)
    data = data_of_recipe(args.recipe, "train", trusted=args.trust)
    changes = [
        construct(AbstractTransform, change, where="augment", trusted=args.trust)
        for change in recipe.get("augment") or []
    ]
    stream = TrainingStream(dataset=data, label=task.label, augment=changes, batch_size=1, seed=0)
    count = min(args.images, len(data))
    console = Console(stderr=True)
    images = (
        batch.batch.inputs.image
        for batch, _ in zip(
            stream.batches(), track(range(count), console=console, transient=True), strict=False
        )
    )
    std = deviation(backbone, images)
    if args.json:
        report = {"data": data.name, "images": count, "std": std, "latent_scale": 1 / std}
        sys.stdout.write(json.dumps(report) + "\n")
        return 0
    sys.stdout.write(
        f"standard deviation of the latents of {count} images of {data.name}: {std:.5f}\n"
        f"in a recipe: latent_scale: {1 / std:.8g}\n"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="diffsight latent-std",
        description=f"{__doc__} The images are the training images of a recipe, augmented.",
    )
    parser.add_argument(
        "--recipe", required=True, metavar="FILE|NAME", help="file, or a recipe of the package"
    )
    add_trust(parser)
    parser.add_argument(
        "--images", type=int, default=1000, metavar="N", help="number of images (default: 1000)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser
