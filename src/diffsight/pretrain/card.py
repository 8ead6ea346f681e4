"""What comes with a pretrained model: its card, a picture of samples, checksums."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from diffsight import assets
from diffsight.atomic import replacing
from diffsight.backbones.source import TRAINING_IMAGES
from diffsight.formats.text import read_json, reading
from diffsight.inference.generate import generate
from diffsight.pretrain.denoiser import FIXED_PROMPTS
from diffsight.rooms import RENDERER_VERSION

HISTORY = "training.json"
SAMPLE_PX = 192  # side of a sample in the picture, at most
COLUMNS = 4
ENTRY = {"stage", "pictures", "steps", "batch_size", "minutes", "scores"}
PARTS = ("vae", "text_encoder", "image_encoder", "unet")


@rank_zero_only
def describe(folder: Path) -> None:
    """Write ``samples.png``, ``README.md`` and ``SHA256SUMS`` into a finished model."""
    samples = generate(FIXED_PROMPTS, model=folder)
    rows = [torch.cat(list(some), dim=2) for some in samples.split(COLUMNS)]
    sheet = Image.fromarray(torch.cat(rows, dim=1).permute(1, 2, 0).numpy())
    factor = max(1, SAMPLE_PX // samples.shape[-1])
    with replacing(folder / "samples.png") as partial:
        size = (factor * sheet.width, factor * sheet.height)
        sheet.resize(size, Image.Resampling.BICUBIC).save(partial, format="PNG")
    with replacing(folder / "README.md") as partial:
        partial.write_text(_card(folder), encoding="utf-8")
    assets.write_checksums(folder)


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Return the stages of a model's pretraining; none where they are not recorded.

    Raises:
        InputError: if the file is no list of them.
    """
    path = folder / HISTORY
    if not path.is_file():
        return []
    keys = ", ".join(sorted(ENTRY))
    line = (
        f"not the history of a pretraining (a list of {keys} per stage): delete it, and the card "
        "lists the stages that are trained from now on"
    )
    with reading(path, line):
        history = read_json(path)
        if not isinstance(history, list):
            raise ValueError("no list")
        for stage in history:
            _row(stage)
            _teachers([stage])
        return history


def _card(folder: Path) -> str:
    history = read_history(folder)
    stages = "\n".join(_row(stage) for stage in history)
    teachers = _teachers(history)
    others = "no label, no photograph and no other model was used"
    if teachers:
        named = ", ".join(f"`{name}`{_seen(name)}" for name in teachers)
        others = f"its features were aligned with those of {named}; no label was used"
    prompts = "\n".join(f"{i}. {prompt}" for i, prompt in enumerate(FIXED_PROMPTS, 1))
    parameters = "\n".join(f"- `{part}/`: {_numbers(folder / part):,}" for part in PARTS)
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# A small latent diffusion model of rooms

Text to image in Stable Diffusion's layout, trained from nothing on rendered rooms of \
diffsight (`{RENDERER_VERSION}`) and their captions; {others}. \
It shows every method of diffsight at work on a CPU; it draws nothing but these rooms.

Parameters (rounded up), all in half precision:

{parameters}

## Training

`diffsight pretrain --recipe pretrain/rooms`; minutes are those of the clock, scores \
are of held-out rooms.

| stage | pictures | steps x batch | minutes | scores |
|---|---|---|---|---|
{stages}

## Samples

![samples](samples.png)

Row by row, `diffsight generate` with its defaults:

{prompts}
"""


def _row(stage: dict[str, Any]) -> str:
    """Return the row of a stage in the card's table."""
    return (
        f"| {stage['stage']} | {stage['pictures']:,} | {stage['steps']:,} x {stage['batch_size']} "
        f"| {stage['minutes']:.0f} | {_listed(stage['scores'])} |"
    )


def _teachers(history: list[dict[str, Any]]) -> list[str]:
    """Return the names of all teachers; a history without them is of a model that had none."""
    names = [name for stage in history for name in stage.get("teachers", ())]
    return list(dict.fromkeys(map(str.strip, names)))


def _seen(teacher: str) -> str:
    """Return what a teacher was trained on, where it is known."""
    images = TRAINING_IMAGES.get(teacher.partition("@")[0])
    return f" (trained on {images})" if images else ""


def _numbers(part: Path) -> int:
    """Return how many numbers of two bytes there are; the header is too small to matter."""
    return sum(path.stat().st_size for path in part.glob("*.safetensors")) // 2


def _listed(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in scores.items())
