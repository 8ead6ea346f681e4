"""``diffsight generate``: generate images from texts with a diffusion model."""

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
    """Generate images from texts.

    All images are written to one PNG file, with a row per prompt and a column per seed.

    Args:
        prompts: text descriptions of the images.
        out: PNG file of the images to write.
        model: tiny (the model that is installed with diffsight), or a Stable Diffusion folder in
            the layout of diffusers.
        count: number of images per prompt.
        seed: seed of the first image of a prompt; each further image adds 1.
        steps: number of denoising steps.
        guidance: scale of classifier-free guidance; 1 turns guidance off.
        size: height and width of an image in pixels (default: those of the training images).
        negative: negative prompt, a description of contents to avoid (default: none).

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
            device=device,
            advance=advance,
        )
    grid = rearrange(images, "(p n) c h w -> (p h) (n w) c", n=count)
    with replacing(out) as partial:
        Image.fromarray(grid.numpy()).save(partial, format="PNG")
    sys.stdout.write(f"{out}\n")
    return 0
