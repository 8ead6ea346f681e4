"""Read and write the parts of a model in a diffusers folder."""

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
    """Return the configuration of a part, read from its ``config.json``.

    Raises:
        InputError: if the file is missing or damaged.
    """
    path = part / "config.json"
    with reading(path, "not a configuration ({reason}): run the stage that writes it again"):
        return read_object(path)


def stride_of(vae: Path) -> int:
    """Return the stride of an autoencoder: pixels per cell of its latent, along an axis.

    Args:
        vae: folder of the autoencoder.

    Raises:
        InputError: if its configuration is missing or damaged.
    """
    return 2 ** (len(config_of(vae)["block_out_channels"]) - 1)


def save_half(module: Any, folder: Path) -> None:
    """Write a diffusers or transformers module in half precision, replacing ``folder`` at once."""
    replace_folder(folder, lambda staging: write_half(module, staging))


def write_half(module: Any, folder: Path) -> None:
    """Write a module in half precision into an existing folder."""
    half = copy.deepcopy(module).half().to(memory_format=torch.contiguous_format)
    half.save_pretrained(folder)
    config = config_of(folder)
    config.pop("_name_or_path", None)  # path of the initial model on this machine
    write_json(folder / "config.json", config, sort_keys=True)


def write_json(path: Path, content: Any, *, sort_keys: bool = False) -> None:
    """Write plain data as indented JSON."""
    text = json.dumps(content, indent=2, sort_keys=sort_keys)
    path.write_text(text + "\n", encoding="utf-8")


def replace_folder(folder: Path, save: Any) -> None:
    """Replace a folder once its new contents are complete.

    Args:
        folder: folder to replace or create.
        save: function that writes the new contents; it is called with a temporary folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with staging(folder) as scratch:
        save(scratch)
        for path in scratch.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors makes files private
        if folder.exists():
            shutil.rmtree(folder)
        scratch.rename(folder)


def load_part(cls: Any, model: Path, part: str, stage: str) -> Any:
    """Return a part of a model in single precision.

    Args:
        cls: class of the part.
        model: diffusers folder.
        part: name of the part's folder.
        stage: name of the stage that needs the part, for the message.

    Raises:
        InputError: if the part is missing.
    """
    options = {"low_cpu_mem_usage": False} if issubclass(cls, ModelMixin) else {}
    return cls.from_pretrained(require_part(model, part, stage), **options).float()


def require_part(model: Path, part: str, stage: str) -> Path:
    """Return the folder of a part of a model.

    Args:
        model: diffusers folder.
        part: name of the part's folder.
        stage: name of the stage that needs the part, for the message.

    Raises:
        InputError: if the part is missing.
    """
    if not (model / part).is_dir():
        raise InputError(
            f"{model}: has no {part}/, which stage {stage!r} needs: run the stage that makes it "
            "first, or begin with a model that has it"
        )
    return model / part
