"""Loading: a folder or a hub id becomes a model, without running anything that came with it."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError, safe_open

from diffsight.errors import InputError
from diffsight.hub.build import TRUSTED, build, uninitialised, without_weights
from diffsight.hub.folder import BASELINES, CARD, CONFIG, WEIGHTS, read_config
from diffsight.model import DenseModel

UNREACHABLE = (
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    HfHubHTTPError,
    HFValidationError,
    OSError,
)
LISTED = 6


def load(
    source: str | Path,
    *,
    revision: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    trusted: Sequence[str] = TRUSTED,
) -> DenseModel:
    """The model in a folder that ``save`` wrote, or of a Hugging Face hub id, in evaluation mode.

    Args:
        source: folder, or ``owner/name`` on the hub (the cache alone with ``HF_HUB_OFFLINE=1``).
        revision: branch, tag or commit on the hub.
        device: where to put it; default: the CPU.
        dtype: of its floating-point tensors; default: float32.
        trusted: packages whose classes ``config.json`` may name; add your own only for your own
            models.

    Raises:
        InputError: one line that names the file, what is wrong and the repair.
    """
    folder = resolve(source, revision=revision)
    config = read_config(folder)
    stripped, _ = without_weights({name: config[name] for name in ("task", "method")})
    assert isinstance(stripped, dict)
    try:
        with uninitialised():
            model = build(stripped, trusted=trusted)
    except InputError as error:
        raise InputError(f"{folder / CONFIG}: {error}") from None
    if dtype is not None:
        model = model.to(dtype)
    read_weights(model, folder / WEIGHTS)
    return (model if device is None else model.to(device)).eval()


def open_model(
    source: str | Path,
    *,
    revision: str | None = None,
    backbone: str | Path | None = None,
    bases: dict[str, Any] | None = None,
) -> tuple[DenseModel, dict[str, Any]]:
    """The model in a folder, of a hub id or in a task file, and what is written about it.

    Args:
        source: as for ``load``, or a task file.
        revision: of a hub id.
        backbone: where a task's frozen model is, if not where the file says.
        bases: frozen models by their names; a task takes its own from there, or adds it.

    Raises:
        InputError: as ``load``, or as ``load_task``.
    """
    if not Path(source).is_file():
        folder = resolve(source, revision=revision)
        return load(folder), read_config(folder)
    from diffsight.hub.task_file import load_task  # heavy

    task = load_task(source, backbone, loaded=bases)
    written = hashlib.sha256(Path(source).read_bytes()).hexdigest()
    return task.model, {**task.config, "fingerprint": written}


def resolve(source: str | Path, *, revision: str | None = None) -> Path:
    """The local folder of ``source``, which may also be a hub id or the folder of a training.

    Raises:
        InputError: if it is neither a folder nor an id that can be had.
    """
    path = Path(source)
    if path.is_dir():
        # the folder of a training holds its model in a folder of its own
        is_run = not (path / CONFIG).is_file() and (path / "model" / CONFIG).is_file()
        return path / "model" if is_run else path
    if path.exists():
        raise InputError(f"{path}: is a file: give the folder that holds {CONFIG} and {WEIGHTS}")
    if str(source).count("/") != 1 or str(source).startswith((".", "/", "~")):
        raise InputError(f"{source}: no such folder, and not a hub id of the form owner/name")
    wanted = [CONFIG, WEIGHTS, CARD, BASELINES]
    try:
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=wanted))
    except RevisionNotFoundError:
        raise InputError(f"{source}: the hub has no revision {revision!r} of it") from None
    except RepositoryNotFoundError:
        raise InputError(
            f"{source}: no such folder, and the hub has no such model: check the spelling, or "
            "log in if it is private"
        ) from None
    except UNREACHABLE as error:
        raise InputError(
            f"{source}: no such folder, and the hub cannot be reached ({type(error).__name__}): "
            "give a local folder, or go online and unset HF_HUB_OFFLINE"
        ) from None


def read_weights(model: DenseModel, path: Path) -> None:
    """Fill every tensor of ``model`` from a safetensors file, one at a time.

    Raises:
        InputError: if the file is missing, truncated, or holds the tensors of another model.
    """
    check_complete(path)
    state = model.state_dict()
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            _check_names(path, set(state), names)
            for name, tensor in state.items():
                value = file.get_tensor(name)
                if value.shape != tensor.shape:
                    raise InputError(
                        f"{path}: {name} has shape {tuple(value.shape)}, the model of {CONFIG} "
                        f"wants {tuple(tensor.shape)}: both files must come from one save"
                    )
                with torch.no_grad():
                    tensor.copy_(value)
    except SafetensorError as error:
        raise InputError(f"{path}: damaged ({error}): copy or download it again") from None


def check_complete(path: Path) -> None:
    """Compare the size of a safetensors file with what its header promises.

    Raises:
        InputError: if the file is missing, no safetensors file, or cut off.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file: copy or download the model again")
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length < size else {}
        ends = [
            entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"
        ]
    except (ValueError, TypeError, KeyError):
        length, ends = size, []
    if length >= size and not ends:
        raise InputError(
            f"{path}: no safetensors file, or cut off within its header ({size:,} bytes): copy or "
            "download it again"
        )
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise InputError(
            f"{path}: {size:,} bytes where {expected:,} belong: copy or download it again"
        )


def _check_names(path: Path, wanted: set[str], found: set[str]) -> None:
    missing, unexpected = sorted(wanted - found), sorted(found - wanted)
    if missing or unexpected:
        parts = [
            f"{len(names)} {title} ({_some(names)})"
            for title, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise InputError(
            f"{path}: holds the tensors of another model than {CONFIG} describes: "
            f"{', '.join(parts)}: both files must come from one save"
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
