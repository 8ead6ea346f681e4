"""``diffsight describe``: print the size and cost of a recipe's model."""

import sys
from collections.abc import Sequence
from typing import Annotated

from diffsight.cli import options
from diffsight.cli.console import write_json
from diffsight.cli.flags import Flag, command
from diffsight.errors import InputError


@command("describe")
def main(
    *,
    recipe: options.Recipe,
    trust: options.Trust = (),
    size: Annotated[Sequence[int], Flag("PX")] = (512,),
    json: bool = False,
) -> int:
    """Print the parameters, multiply-adds and memory of a recipe's model.

    Neither the weights nor the data are needed.

    Args:
        size: image size in pixels: one number for a square, or height and width.

    Example:
        diffsight describe --recipe vpd/ade20k_80k --size 512
    """
    from dataclasses import asdict

    import torch

    from diffsight.cli.recipe import read
    from diffsight.hub.build import build, without_weights
    from diffsight.inference.cost import estimate_cost

    if len(size) > 2 or min(size) < 1:
        raise InputError(f"--size {' '.join(map(str, size))}: give one or two positive numbers")
    height, width = (*size, *size)[:2]
    call_of = read(recipe)
    if missing := [part for part in ("task", "method") if part not in call_of]:
        parts = " and no ".join(missing)
        raise InputError(f"{recipe}: has no {parts}: nothing to describe: choose another recipe")
    config = {part: without_weights(call_of[part])[0] for part in ("task", "method")}
    with torch.device("meta"):
        model = build(config, trusted=trust).to("meta")
    costs = estimate_cost(model, height, width)
    if json:
        write_json({"height": height, "width": width, **asdict(costs)})
        return 0
    own = costs.multiply_adds - costs.attention_multiply_adds
    sys.stdout.write(
        f"{recipe}, one pass over {height} x {width} px (height x width)\n"
        f"parameters     {costs.parameters:,}, {costs.trainable:,} of them trainable\n"
        f"multiply-adds  {costs.multiply_adds / 1e9:.1f} G; "
        f"{own / 1e9:.1f} G without the products of attention\n"
        f"memory         about {costs.peak_bytes / 2**30:.2f} GiB in 32 bit for one image, weights "
        f"{costs.weights_bytes / 2**30:.2f} of it; training needs four times the weights and the "
        "activations (`diffsight fit --plan` measures them)\n"
    )
    return 0
