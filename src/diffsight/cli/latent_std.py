"""Measure the deviation of a data set's latents, by which EVP divides them."""

import argparse
import json
import sys
from collections.abc import Sequence

from diffsight.errors import InputError


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="diffsight latent-std",
        description=f"{__doc__} The images are those of a recipe's training, augmented.",
    )
    parser.add_argument("--recipe", required=True, metavar="FILE|NAME", help="as for fit")
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="default 1000")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)

    from rich.console import Console
    from rich.progress import track

    from diffsight.backbones.base import AbstractBackbone
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
        label = construct(AbstractTask, recipe["task"], where="task").label
    except (KeyError, TypeError):
        raise InputError(f"{args.recipe}: no task and method with a backbone in it") from None
    backbone = construct(AbstractBackbone, call, where="method.backbone")
    if not isinstance(backbone, StableDiffusion):
        raise InputError(f"{args.recipe}: its backbone has no latents")
    data = data_of_recipe(args.recipe, "train")
    changes = [
        construct(AbstractTransform, change, where="augment")
        for change in recipe.get("augment") or []
    ]
    stream = TrainingStream(dataset=data, label=label, augment=changes, batch_size=1, seed=0)
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
        f"deviation of the latents of {count} images of {data.name}: {std:.5f}\n"
        f"in a recipe: latent_scale: {1 / std:.8g}\n"
    )
    return 0
