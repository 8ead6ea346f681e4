"""The diffusers folder that a pretraining fills, part by part."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin

from diffsight.atomic import staging
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
    write(folder, lambda staging: write_half(module, staging))


def write_half(module: Any, folder: Path) -> None:
    """Write a module in half precision into a folder that is there."""
    half = copy.deepcopy(module).half().to(memory_format=torch.contiguous_format)
    half.save_pretrained(folder)
    config = config_of(folder)
    config.pop("_name_or_path", None)  # where a model to begin with lay, on this machine
    write_json(folder / "config.json", config, sort_keys=True)


def write_json(path: Path, content: Any, *, sort_keys: bool = False) -> None:
    """Write plain data, indented."""
    text = json.dumps(content, indent=2, sort_keys=sort_keys)
    path.write_text(text + "\n", encoding="utf-8")


def write(folder: Path, save: Any) -> None:
    """Replace ``folder`` by what ``save`` writes into a temporary one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with staging(folder) as scratch:
        save(scratch)
        for path in scratch.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)  # files of safetensors are private
        if folder.exists():
            shutil.rmtree(folder)
        scratch.rename(folder)


def load_part(cls: Any, model: Path, part: str, by: str) -> Any:
    """Return a part that an earlier stage makes, in single precision; see ``need``.

    Raises:
        InputError: if it is not there.
    """
    options = {"low_cpu_mem_usage": False} if issubclass(cls, ModelMixin) else {}
    return cls.from_pretrained(need(model, part, by), **options).float()


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
