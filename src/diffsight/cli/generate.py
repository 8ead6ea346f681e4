"""``diffsight generate``: turn texts into images with a text-to-image diffusion model."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from diffsight.cli import options
from diffsight.cli.console import progress
from diffsight.cli.flags import Flag, command


@command("generate")
def main(
    prompts: Annotated[Sequence[str], Flag("PROMPT")],
    *,
    out: Annotated[Path, Flag("FILE.png")],
    model: Annotated[str, Flag("tiny|DIR")] = "tiny",
    count: int = 1,
    seed: int = 0,
    steps: int = 30,
    guidance: Annotated[float, Flag("X")] = 4.0,
    size: int | None = None,
    negative: Annotated[str, Flag("TEXT")] = "",
    device: str | None = None,
) -> int:
    """Turn texts into images.

    Several images make one picture: a row per prompt, a column per seed.

    Args:
        prompts: description of the image.
        out: the picture to write.
        model: the model of the package, or a Stable Diffusion folder in diffusers' layout.
        count: images per prompt.
        seed: seed of the first image; the next one has the next.
        steps: steps of the solver.
        guidance: weight of the text (classifier-free guidance); 1 is without guidance.
        size: side of an image in pixels (default: that of the training images).
        negative: what the image must not show (default: nothing).

    Example:
        diffsight generate "a kitchen with a white refrigerator" --out kitchen.png
    """
    options.require_png(out)

    from einops import rearrange
    from PIL import Image

    from diffsight.atomic import replacing
    from diffsight.inference.generate import generate

    with progress("generating", len(prompts) * count * steps) as advance:
        images = generate(
            prompts,
            model=model,
            count=count,
            steps=steps,
            guidance=guidance,
            size=size,
            seed=seed,
            negative=negative,
            device=options.device_of(device),
            advance=advance,
        )
    grid = rearrange(images, "(p n) c h w -> (p h) (n w) c", n=count)
    with replacing(out) as partial:
        Image.fromarray(grid.numpy()).save(partial, format="PNG")
    sys.stdout.write(f"{out}\n")
    return 0
