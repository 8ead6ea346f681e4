"""Describe a recipe's model and its cost; neither its weights nor its data are needed."""

import argparse
import json
import sys
from collections.abc import Sequence

from diffsight.cli.options import add_trust
from diffsight.errors import InputError


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="diffsight describe", description=__doc__)
    parser.add_argument(
        "--recipe", required=True, metavar="FILE|NAME", help="file, or a recipe of the package"
    )
    add_trust(parser)
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        default=[512],
        metavar="PX",
        help="size of the image: one number, or height and width (default: 512)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)

    from dataclasses import asdict

    import torch

    from diffsight.cli.recipe import read
    from diffsight.hub.build import build, without_weights
    from diffsight.inference.cost import cost

    if len(args.size) > 2 or min(args.size) < 1:
        raise InputError(f"--size {' '.join(map(str, args.size))}: one or two positive numbers")
    height, width = (args.size * 2)[:2]
    recipe = read(args.recipe)
    if missing := [part for part in ("task", "method") if part not in recipe]:
        raise InputError(f"{args.recipe}: has no {' and no '.join(missing)}: nothing to describe")
    config = {part: without_weights(recipe[part])[0] for part in ("task", "method")}
    with torch.device("meta"):
        model = build(config, trusted=args.trust).to("meta")
    found = cost(model, height, width)
    if args.json:
        sys.stdout.write(json.dumps({"height": height, "width": width, **asdict(found)}) + "\n")
        return 0
    own = found.multiply_adds - found.attention_multiply_adds
    sys.stdout.write(
        f"{args.recipe}, one pass over {height} x {width} px (height x width)\n"
        f"parameters     {found.parameters:,}, {found.trainable:,} of them learn\n"
        f"multiply-adds  {found.multiply_adds / 1e9:.1f} G; without the products of attention "
        f"{own / 1e9:.1f} G\n"
        f"memory         about {found.peak_bytes / 2**30:.2f} GiB in 32 bit for one image, weights "
        f"{found.weights_bytes / 2**30:.2f} of them; training needs four times the weights and the "
        "activations (`diffsight fit --plan` measures them)\n"
    )
    return 0
