"""Loading: a folder, a file or a hub id becomes a model, without running anything from it."""

import difflib
import json
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import nn

from diffsight.backbones import PretrainedPart
from diffsight.config import to_config
from diffsight.errors import InputError, suggest
from diffsight.hub.artifact import (
    BASELINES,
    CARD,
    CONFIG,
    PREFIX,
    WEIGHTS,
    Artifact,
    check_complete,
    fingerprint,
    opened,
)
from diffsight.hub.build import build, uninitialised, without_weights
from diffsight.model import DenseModel
from diffsight.ops.memory import memory_for
from diffsight.weights import hub_errors, require_finite, resolve_folder

LISTED = 6
Shared = MutableMapping[str, PretrainedPart]


def load(
    source: str | Path,
    *,
    revision: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    trusted: Sequence[str] = (),
    backbone: str | Path | None = None,
    shared: Shared | None = None,
) -> DenseModel:
    """Return a saved model with its baselines, in evaluation mode.

    Args:
        source: folder or file that ``save`` wrote, folder of a training, or ``owner/name`` on the
            Hugging Face hub (the cache alone with ``HF_HUB_OFFLINE=1``).
        revision: branch, tag or commit on the hub.
        device: where to put it; default: the CPU.
        dtype: of its floating-point tensors; default: float32.
        trusted: further packages whose classes the configuration may name; add your own only for
            your own models.
        backbone: where the frozen backbone is, if not where the configuration says.
        shared: frozen parts of models that were loaded before; a part that is in it is not loaded
            again, any other is added.

    Raises:
        InputError: one line that names the file, what is wrong and the repair.
    """
    artifact = resolve(source, revision=revision)
    config = artifact.config()
    stripped, _ = without_weights({name: config[name] for name in ("task", "method")})
    assert isinstance(stripped, dict)
    where = artifact.path if artifact.is_file else artifact.path / CONFIG
    try:
        with uninitialised(), memory_for("not enough memory for a model of this size"):
            model = build(stripped, trusted=trusted)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    shared = {} if shared is None else shared
    for path, entry in config["frozen"].items():
        # a part is converted with the model, so models of another type have their own
        key = f"{entry['fingerprint']} {dtype or torch.float32} {device or 'cpu'}"
        _attach(model.method, path, entry, config["frozen"], backbone, shared, key, where)
    if dtype is not None:
        model = model.to(dtype)
    read_weights(model, artifact, tuple(config["frozen"]), config["fingerprint"])
    model.info = {**config["info"], "fingerprint": config["fingerprint"]}
    model.baselines = artifact.baselines()
    dimensions = 2 if model.output.grid is None else 3
    if any(one.ndim != dimensions for one in model.baselines.values()):
        raise InputError(f"{where}: the stored baselines are of another task: copy the model again")
    return (model if device is None else model.to(device)).eval()


def read_config(source: str | Path, *, revision: str | None = None) -> dict[str, Any]:
    """Return the configuration of a saved model.

    Raises:
        InputError: if there is none, or it is damaged.
    """
    return resolve(source, revision=revision).config()


def resolve(source: str | Path, *, revision: str | None = None) -> Artifact:
    """Return where a saved model is; ``source`` may also be a hub id or the folder of a training.

    Raises:
        InputError: if it is neither a file, nor a folder, nor an id that can be had.
    """
    path = resolve_folder(Path(source))
    if path.is_dir():
        # the folder of a training holds its model in a folder of its own
        is_run = not (path / CONFIG).is_file() and (path / "model" / CONFIG).is_file()
        return Artifact(path / "model" if is_run else path)
    if path.is_file():
        return Artifact(path)
    near = _near(path)
    is_path = str(source).startswith((".", "/", "~")) or path.suffix == ".safetensors"
    if str(source).count("/") != 1 or is_path:
        raise InputError(
            f"{source}: no such file or folder, and not a hub id of the form owner/name{near}"
        )
    wanted = [CONFIG, WEIGHTS, CARD, BASELINES]
    try:
        with hub_errors(source):
            folder = snapshot_download(str(source), revision=revision, allow_patterns=wanted)
    except InputError as error:
        raise InputError(f"{error}{near}") from None
    return Artifact(Path(folder))


def _near(path: Path) -> str:
    """Return a question with the nearest names in the folder of a path."""
    folder = path.expanduser().parent
    known = [one.name for one in folder.glob("[!.]*")] if folder.is_dir() else []
    close = difflib.get_close_matches(path.name, known)
    return f"; {suggest(path.name, close)}" if close else ""


def read_weights(
    model: DenseModel, artifact: Artifact, frozen: Sequence[str], expected: str
) -> None:
    """Fill every tensor of ``model`` that the artifact holds, one at a time.

    Args:
        model: what to fill.
        artifact: with the tensors.
        frozen: paths in the method of the parts that it holds by reference.
        expected: fingerprint of the tensors.

    Raises:
        InputError: if the file is missing, truncated or changed, or holds the tensors of another
            model.
    """
    path = artifact.weights
    check_complete(path)
    state = stored_state(model, frozen)
    with opened(path) as file:
        names = {name for name in file.names if not name.startswith(PREFIX)}
        _check_names(path, set(state), names)

        def tensors() -> Any:
            for name in sorted(state):
                value, target = file.tensor(name), state[name]
                if value.shape != target.shape:
                    raise InputError(
                        f"{path}: {name} has shape {tuple(value.shape)}, its configuration "
                        f"wants {tuple(target.shape)}: both must come from one save"
                    )
                if not name.startswith("task."):  # a codec that nothing was fitted to holds NaN
                    require_finite([(name, value)], path)
                with torch.no_grad():
                    target.copy_(value)
                yield name, value

        found = fingerprint(tensors())
    if found != expected:
        raise InputError(
            f"{path}: its tensors are not those that were saved (fingerprint {found[:12]}, not "
            f"{expected[:12]}): copy or download the model again"
        )


def stored_state(model: DenseModel, frozen: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the tensors of a model but those of the frozen parts at these paths in its method."""
    prefixes = tuple(f"method.{path}." for path in frozen)
    return {n: v for n, v in model.state_dict().items() if not n.startswith(prefixes or ("\0",))}


def _attach(
    method: nn.Module,
    path: str,
    entry: Mapping[str, Any],
    entries: Mapping[str, Mapping[str, Any]],
    backbone: str | Path | None,
    shared: Shared,
    key: str,
    where: Path,
) -> None:
    """Put a frozen part that is stored by reference into a method, loaded once for all models."""
    try:
        part = method.get_submodule(path)
    except AttributeError:
        part = None
    if not isinstance(part, PretrainedPart):
        raise InputError(f"{where}: has no frozen part {path!r}: copy it again")
    key += json.dumps(without_weights(to_config(part))[0], sort_keys=True)
    if key not in shared:
        main = next(iter(entries.values()))["source"]
        moved = backbone is not None and entry["source"] == main
        source = backbone if moved else entry["source"]
        assert source is not None
        try:
            part.load_weights(source, revision=None if moved else entry.get("revision"))
        except InputError as error:
            raise InputError(
                f"{where}: stands on a frozen model that is not there ({error}): say where it is "
                "(--backbone, in Python backbone=...)"
            ) from None
        found = fingerprint(part.state_dict().items())
        if found != entry["fingerprint"]:
            raise InputError(
                f"{where}: was made on {entry['source']} ({entry['fingerprint'][:12]}), not on "
                f"{source} ({found[:12]}): give the one that it was made with (--backbone)"
            )
        if moved:  # it stays what it is a copy of
            part.source, part.revision = entry["source"], entry.get("revision")
        shared[key] = part
    method.set_submodule(path, shared[key])


def _check_names(path: Path, wanted: set[str], found: set[str]) -> None:
    missing, unexpected = sorted(wanted - found), sorted(found - wanted)
    if missing or unexpected:
        parts = [
            f"{len(names)} {title} ({_some(names)})"
            for title, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise InputError(
            f"{path}: holds the tensors of another model than its configuration describes: "
            f"{', '.join(parts)}: both must come from one save"
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
