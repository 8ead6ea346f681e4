"""``diffsight control``: generate pictures with the class layout of a photograph."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from diffsight.choices import CONTROLNET, STABLE_DIFFUSION
from diffsight.cli import options
from diffsight.cli.console import progress
from diffsight.cli.flags import Flag, command
from diffsight.errors import InputError
from diffsight.inference.plan import Plan, short_side_px

if TYPE_CHECKING:
    from diffsight.inference import Predictor


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """Options of the generated pictures.

    Attributes:
        count: number of pictures per model.
        seed: seed of the first picture; each further picture adds 1.
        steps: number of denoising steps (DDIM).
        guidance: scale of classifier-free guidance.
        size: shorter side of a picture in pixels; both sides are rounded to multiples of 64.
        negative: negative prompt, a description of unwanted contents (default: none).
    """

    count: int = 1
    seed: int = 0
    steps: int = 20
    guidance: Annotated[float, Flag("X")] = 9.0
    size: int = 512
    negative: Annotated[str, Flag("TEXT")] = ""

    def __post_init__(self) -> None:
        """Check that all numbers are in range."""
        for name in ("count", "steps", "size"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)}: give at least 1")


@command("control")
def main(
    image: Path,
    *,
    model: Annotated[Sequence[str], Flag("PATH|ID", repeatable=True)],
    prompt: Annotated[str, Flag("TEXT")],
    out: Annotated[Path, Flag("FILE.png")],
    stable_diffusion: Annotated[str, Flag("DIR|ID")] = STABLE_DIFFUSION,
    controlnet: Annotated[str, Flag("DIR|ID")] = CONTROLNET,
    pictures: PictureOptions,
    network: options.ModelOptions,
) -> int:
    """Generate pictures with the class layout of a photograph (DDP, figure 10).

    A segmentation model predicts the ADE20K classes of the photograph. The class map then controls
    Stable Diffusion through a ControlNet. The output image has a row per model: the photograph, the
    class map, and the generated pictures.

    Args:
        image: file of the photograph.
        model: saved segmentation model with ADE20K's 150 classes; repeat the option to compare
            several.
        prompt: text description of the pictures.
        out: PNG file to write.
        stable_diffusion: Stable Diffusion model in the layout of diffusers.
        controlnet: segmentation ControlNet for this Stable Diffusion model.
        pictures: options of the generated pictures.
        network: backbone of the segmentation models, and device.

    Example:
        diffsight control photo.jpg --model runs/ade20k --prompt "a room at night" --out night.png
    """
    options.require_png(out)

    import torch
    from PIL import Image

    from diffsight.atomic import replacing
    from diffsight.datasets.files import read_image
    from diffsight.inference.control import Controller
    from diffsight.ops.device import usable_device

    photograph, device = read_image(image), usable_device(network.device)
    predictors = [_load_predictor(source, network, device) for source in model]
    controller = Controller(stable_diffusion, controlnet, device=device)
    seeds = range(pictures.seed, pictures.seed + pictures.count)
    with progress("generating", len(model) * len(seeds) * pictures.steps) as advance:
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


def _load_predictor(source: str, network: options.ModelOptions, device: str) -> "Predictor":
    from diffsight.inference import Predictor
    from diffsight.inference.control import require_ade20k

    loaded = network.load(source)
    plan = Plan(short_side=short_side_px("training", loaded.info))
    predictor = Predictor(loaded, plan, device=device)
    require_ade20k(predictor, source)
    return predictor
