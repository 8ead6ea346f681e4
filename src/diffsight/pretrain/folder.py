"""The diffusers folder that a pretraining fills, part by part."""

import copy
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from diffsight.errors import InputError
from diffsight.formats.text import read_object, reading


def config_of(part: Path) -> dict[str, Any]:
    """Return the configuration of a part.

    Raises:
        InputError: if it is damaged.
    """
    path = part / "config.json"
    with reading(path, "no configuration ({reason}): run the stage that makes it again"):
        return read_object(path)


def stride_of(vae: Path) -> int:
    """Return the pixels per latent of an autoencoder."""
    return 2 ** (len(config_of(vae)["block_out_channels"]) - 1)


def save_half(module: Any, folder: Path) -> None:
    """Write a diffusers or transformers module in half precision, all of it or nothing."""
    half = copy.deepcopy(module).half().to(memory_format=torch.contiguous_format)

    def save(staging: Path) -> None:
        half.save_pretrained(staging)
        config = config_of(staging)
        config.pop("_name_or_path", None)  # where a model to begin with lay, on this machine
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (staging / "config.json").write_text(text, encoding="utf-8")

    write(folder, save)


def write(folder: Path, save: Any) -> None:
    """Replace ``folder`` by what ``save`` writes into a temporary one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        save(staging)
        for path in (staging, *staging.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)  # both are private otherwise
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def need(model: Path, part: str, by: str) -> Path:
    """Return the folder of a part that an earlier stage makes.

    Raises:
        InputError: if it is not there.
    """
    if not (model / part).is_dir():
        raise InputError(
            f"{model}: has no {part}/, which stage {by!r} needs: run the stages before it, or "
            "begin with a model that has it"
        )
    return model / part
