"""Write the model card of a pretrained model, a picture of samples, and checksums."""

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

HISTORY = "training.json"  # file with the stages of the pretraining
SAMPLE_PX = 192  # greatest side of a sample in the picture
COLUMNS = 4  # of the picture of samples
ENTRY = {"stage", "pictures", "steps", "batch_size", "minutes", "scores"}  # keys of a stage
PARTS = ("vae", "text_encoder", "image_encoder", "unet")


@rank_zero_only
def write_card(folder: Path) -> None:
    """Write ``samples.png``, ``README.md`` and ``SHA256SUMS`` into the folder of a model."""
    samples = generate(FIXED_PROMPTS, model=folder)
    rows = [torch.cat(list(some), dim=2) for some in samples.split(COLUMNS)]
    sheet = Image.fromarray(torch.cat(rows, dim=1).permute(1, 2, 0).numpy())
    factor = max(1, SAMPLE_PX // samples.shape[-1])
    with replacing(folder / "samples.png") as partial:
        size = (factor * sheet.width, factor * sheet.height)
        sheet.resize(size, Image.Resampling.BICUBIC).save(partial, format="PNG")
    with replacing(folder / "README.md") as partial:
        partial.write_text(_format_card(folder), encoding="utf-8")
    assets.write_checksums(folder)


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Return the stages of a model's pretraining, read from ``training.json``; empty without it.

    Args:
        folder: diffusers folder of the model.

    Returns:
        One mapping per stage, with the keys in ``ENTRY``.

    Raises:
        InputError: if the file is not a list of stages.
    """
    path = folder / HISTORY
    if not path.is_file():
        return []
    keys = ", ".join(sorted(ENTRY))
    line = (
        f"not the history of a pretraining (a list of {keys} per stage): delete it; the "
        "card will then list only the stages of this run"
    )
    with reading(path, line):
        history = read_json(path)
        if not isinstance(history, list):
            raise ValueError("no list")
        for stage in history:
            _format_row(stage)
            _list_teachers([stage])
        return history


def _format_card(folder: Path) -> str:
    """Return the text of ``README.md``."""
    history = read_history(folder)
    stages = "\n".join(_format_row(stage) for stage in history)
    teachers = _list_teachers(history)
    others = "no label, no photograph and no other model was used"
    if teachers:
        named = ", ".join(f"`{name}`{_describe_training_images(name)}" for name in teachers)
        others = f"its features were aligned with those of {named}; no label was used"
    prompts = "\n".join(f"{i}. {prompt}" for i, prompt in enumerate(FIXED_PROMPTS, 1))
    parameters = "\n".join(f"- `{part}/`: {_count_parameters(folder / part):,}" for part in PARTS)
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# A small latent diffusion model of rooms

A text-to-image model with the layout of Stable Diffusion, trained from scratch on rendered rooms of
diffsight (`{RENDERER_VERSION}`) and their captions;
{others}.
It is small enough to run every method of diffsight on a CPU. It can only draw these rooms.

Parameters (rounded up), all in half precision:

{parameters}

## Training

`diffsight pretrain --recipe pretrain/rooms`. Minutes are wall-clock time, scores are those of \
held-out rooms.

| stage | pictures | steps x batch | minutes | scores |
|---|---|---|---|---|
{stages}

## Samples

![samples](samples.png)

From `diffsight generate` with its defaults, row by row:

{prompts}
"""


def _format_row(stage: dict[str, Any]) -> str:
    """Return the row of a stage in the card's table."""
    return (
        f"| {stage['stage']} | {stage['pictures']:,} | {stage['steps']:,} x {stage['batch_size']} "
        f"| {stage['minutes']:.0f} | {_format_scores(stage['scores'])} |"
    )


def _list_teachers(history: list[dict[str, Any]]) -> list[str]:
    """Return the names of all teachers in a history, without duplicates."""
    names = [name for stage in history for name in stage.get("teachers", ())]
    return list(dict.fromkeys(map(str.strip, names)))


def _describe_training_images(teacher: str) -> str:
    """Return a note about the training images of a teacher, or "" if they are unknown."""
    images = TRAINING_IMAGES.get(teacher.partition("@")[0])
    return f" (trained on {images})" if images else ""


def _count_parameters(part: Path) -> int:
    """Return the number of 16-bit parameters, estimated from the size of the files."""
    return sum(path.stat().st_size for path in part.glob("*.safetensors")) // 2


def _format_scores(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in scores.items())
