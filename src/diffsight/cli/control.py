"""``diffsight control``: paint pictures that keep the classes of a photograph."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from diffsight.choices import CONTROLNET, STABLE_DIFFUSION
from diffsight.cli import options
from diffsight.cli.console import progress
from diffsight.cli.flags import Flag, command
from diffsight.errors import InputError
from diffsight.inference.plan import Plan, short_side_px


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """How pictures are painted.

    Attributes:
        count: pictures per segmenter.
        seed: seed of the first picture; the next one has the next.
        steps: steps of the solver (DDIM).
        guidance: weight of the text (classifier-free guidance).
        size: shorter side of the pictures in pixels; both sides become multiples of 64.
        negative: what the pictures must not show (default: nothing).
    """

    count: int = 1
    seed: int = 0
    steps: int = 20
    guidance: Annotated[float, Flag("X")] = 9.0
    size: int = 512
    negative: Annotated[str, Flag("TEXT")] = ""

    def __post_init__(self) -> None:
        """Refuse numbers that are out of range."""
        for name in ("count", "steps", "size"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)}: give at least 1")


@command("control")
def main(
    image: Path,
    *,
    model: Annotated[Sequence[str], Flag("PATH|ID", repeat=True)],
    prompt: Annotated[str, Flag("TEXT")],
    out: Annotated[Path, Flag("FILE.png")],
    stable_diffusion: Annotated[str, Flag("DIR|ID")] = STABLE_DIFFUSION,
    controlnet: Annotated[str, Flag("DIR|ID")] = CONTROLNET,
    pictures: PictureOptions,
    network: options.ModelOptions,
) -> int:
    """Paint pictures that keep the classes of a photograph (DDP, figure 10).

    A segmenter of ADE20K's classes steers Stable Diffusion through a ControlNet. The picture has a
    row for each segmenter: the photograph, its classes, and what is painted from them.

    Args:
        image: photograph.
        model: saved model of ADE20K's 150 classes; repeat it to compare several.
        prompt: description of the picture.
        out: the picture to write.
        stable_diffusion: Stable Diffusion in diffusers' layout.
        controlnet: ControlNet of segmentation that was trained with it.
        pictures: how they are painted.
        network: where the parts of the segmenters are, and where everything runs.

    Example:
        diffsight control photo.jpg --model runs/ade20k --prompt "a room at night" --out night.png
    """
    options.require_png(out)

    import torch
    from PIL import Image

    from diffsight.atomic import replacing
    from diffsight.datasets.files import read_image
    from diffsight.inference import Predictor
    from diffsight.inference.control import Controller, require_ade20k

    photograph, device = read_image(image), options.device_of(network.device)
    predictors = []
    for source in model:
        loaded = network.load(source)
        plan = Plan(short_side=short_side_px("training", loaded.info))
        predictors.append(Predictor(loaded, plan, device=device))
        require_ade20k(predictors[-1], source)
    controller = Controller(stable_diffusion, controlnet, device=device)
    seeds = range(pictures.seed, pictures.seed + pictures.count)
    with progress("painting", len(model) * len(seeds) * pictures.steps) as advance:
        rows = [
            controller(
                predictor,
                photograph,
                prompt,
                side=pictures.size,
                seeds=seeds,
                steps=pictures.steps,
                guidance=pictures.guidance,
                negative=pictures.negative,
                advance=advance,
            ).row()
            for predictor in predictors
        ]
    sheet = torch.cat(rows, dim=1).permute(1, 2, 0).contiguous().numpy()
    with replacing(out) as partial:
        Image.fromarray(sheet).save(partial, format="PNG")
    sys.stdout.write(f"{out}\n")
    return 0
