"""Saving: configuration, weights and card, complete or not at all; and sending them to the hub."""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from safetensors import SafetensorError
from safetensors.torch import save_file

import diffsight
from diffsight.config import to_config
from diffsight.errors import InputError
from diffsight.hub.build import without_weights
from diffsight.hub.folder import BASELINES, CARD, CONFIG, FORMAT, WEIGHTS, write_about
from diffsight.model import DenseModel


def save(
    model: DenseModel, directory: str | Path, *, info: Mapping[str, Any] | None = None
) -> Path:
    """Write ``config.json``, ``model.safetensors`` and a card; other files of the folder stay.

    All three are written completely to a folder beside it and then put in place, so that a full
    disk or a killed process leaves an older model as it was.

    Args:
        model: what to save.
        directory: folder, made if it does not exist.
        info: plain data for ``config.json`` and the card: ``license``, ``datasets``, ``training``,
            and ``results``, a list of ``protocol`` / ``plan`` / ``metrics`` as ``evaluate`` gives.

    Returns:
        The folder.

    Raises:
        OSError: if it cannot be written; naming the file.
    """
    directory = Path(directory)
    config = describe(model, info or {})
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        write_about(staging, config)
        _write_weights(model, staging / WEIGHTS, config["fingerprint"])
        # safetensors makes files that only their owner may read
        shutil.copymode(staging / CONFIG, staging / WEIGHTS)
        directory.mkdir(exist_ok=True)
        # the configuration comes last: it makes the folder a model
        for name in (CARD, WEIGHTS, CONFIG):
            os.replace(staging / name, directory / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return directory


def push(
    model: DenseModel | str | Path,
    repo_id: str,
    *,
    private: bool = True,
    info: Mapping[str, Any] | None = None,
) -> str:
    """Send a model, or the folder of a saved one, to the Hugging Face hub; returns the commit's
    URL.

    Args:
        model: a model or a folder that ``save`` wrote.
        repo_id: ``owner/name``, made if it does not exist.
        private: whether a new repository is private.
        info: as for ``save``; for a model only.

    Raises:
        InputError: if the folder holds no model.
    """
    if isinstance(model, DenseModel):
        with tempfile.TemporaryDirectory() as folder:
            return push(save(model, Path(folder) / "model", info=info), repo_id, private=private)
    missing = [name for name in (CONFIG, WEIGHTS, CARD) if not (Path(model) / name).is_file()]
    if missing:
        lack = " and no ".join(missing)
        raise InputError(f"{model}: no {lack} in it: give a folder that diffsight.save wrote")
    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo_id,
        folder_path=str(model),
        allow_patterns=[CONFIG, WEIGHTS, CARD, BASELINES],
        commit_message="Upload with diffsight",
    )
    return commit.commit_url


def describe(model: DenseModel, info: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of ``config.json``."""
    call = to_config(model)
    assert isinstance(call, dict)
    config, sources = without_weights(call["init_args"])
    assert isinstance(config, dict)
    base = {"base_weights": sources} if sources else {}
    return {
        "format": FORMAT,
        "diffsight_version": diffsight.__version__,
        "task": config["task"],
        "method": config["method"],
        "parameters": sum(value.numel() for value in model.parameters()),
        "fingerprint": fingerprint(model),
        "info": base | dict(info),
    }


def fingerprint(model: torch.nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()


def _write_weights(model: DenseModel, path: Path, digest: str) -> None:
    tensors = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    try:
        save_file(tensors, path, metadata={"format": "pt", "fingerprint": digest})
    except SafetensorError as error:
        # safetensors reports a full disk in a text of its own
        code = re.search(r"os error (\d+)", str(error))
        number = int(code.group(1)) if code else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from None
