"""Load a model from a folder, a file or the hub, without running code from it."""

import difflib
import json
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
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
    open_tensors,
)
from diffsight.hub.build import build, uninitialised, without_weights
from diffsight.hub.classes import resolve_class
from diffsight.methods.base import AbstractMethod
from diffsight.model import DenseModel
from diffsight.ops.memory import report_out_of_memory
from diffsight.weights import hub_errors, require_finite, resolve_folder

LISTED = 6  # names of tensors in a message
METHOD = "method."  # prefix of the method's tensors
Shared = MutableMapping[str, PretrainedPart]
"""Frozen parts that several models share, by fingerprint, dtype, device and configuration."""


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
        source: folder or file that ``save`` wrote, output folder of a training, or ``owner/name``
            on the Hugging Face hub (with ``HF_HUB_OFFLINE=1`` in its cache only).
        revision: branch, tag or commit on the hub.
        device: device of the model; default: the CPU.
        dtype: dtype of the floating-point tensors; default: float32.
        trusted: further packages whose classes the configuration may name. Importing a class runs
            code of its package, so name only packages that you trust.
        backbone: folder or hub id of the frozen backbone, if it has moved since the model was
            saved.
        shared: frozen parts of models that were loaded before. Parts in it are not loaded again,
            and newly loaded parts are added to it.

    Raises:
        InputError: if there is no such model, or it is damaged or refused; the message has one line
            with the file, the problem and the repair.
    """
    artifact = resolve(source, revision=revision)
    config = artifact.config()
    stripped, _ = without_weights({name: config[name] for name in ("task", "method")})
    assert isinstance(stripped, dict)
    config_path = artifact.path if artifact.is_file else artifact.path / CONFIG
    _check_arguments(stripped["method"], artifact, config_path, trusted)
    try:
        with uninitialised(), report_out_of_memory("not enough memory for a model of this size"):
            model = build(stripped, trusted=trusted)
    except InputError as error:
        raise InputError(f"{config_path}: {error}") from None
    shared = {} if shared is None else shared
    for path, entry in config["frozen"].items():
        # a part has the dtype and device of its model, so only models with the same share it
        key = f"{entry['fingerprint']} {dtype or torch.float32} {device or 'cpu'}"
        _attach(model.method, path, entry, config["frozen"], backbone, shared, key, config_path)
    if dtype is not None:
        model = model.to(dtype)
    read_weights(model, artifact, tuple(config["frozen"]), config["fingerprint"])
    model.info = {**config["info"], "fingerprint": config["fingerprint"]}
    model.baselines = artifact.baselines()
    dimensions = 2 if model.output.grid is None else 3
    if any(one.ndim != dimensions for one in model.baselines.values()):
        raise InputError(
            f"{config_path}: the stored baselines belong to another task: copy the model again"
        )
    return (model if device is None else model.to(device)).eval()


def read_config(source: str | Path, *, revision: str | None = None) -> dict[str, Any]:
    """Return the configuration of a saved model; ``source`` and ``revision`` as for ``load``.

    Raises:
        InputError: if there is no such model, or its configuration is damaged.
    """
    return resolve(source, revision=revision).config()


def resolve(source: str | Path, *, revision: str | None = None) -> Artifact:
    """Return the folder or file of a saved model; ``source`` and ``revision`` as for ``load``.

    Raises:
        InputError: if ``source`` is neither a file, nor a folder, nor a hub id whose files can be
            downloaded or are in the cache.
    """
    path = resolve_folder(Path(source))
    if path.is_dir():
        # the output folder of a training has the model in its subfolder ``model``
        is_run = not (path / CONFIG).is_file() and (path / "model" / CONFIG).is_file()
        return Artifact(path / "model" if is_run else path)
    if path.is_file():
        return Artifact(path)
    suggestion = _suggest_names(path)
    is_path = str(source).startswith((".", "/", "~")) or path.suffix == ".safetensors"
    if str(source).count("/") != 1 or is_path:
        raise InputError(
            f"{source}: no such file or folder, and not a hub id of the form owner/name{suggestion}"
        )
    wanted = [CONFIG, WEIGHTS, CARD, BASELINES]
    try:
        with hub_errors(source):
            folder = huggingface_hub.snapshot_download(
                str(source), revision=revision, allow_patterns=wanted
            )
    except InputError as error:
        raise InputError(f"{error}{suggestion}") from None
    return Artifact(Path(folder))


def _suggest_names(path: Path) -> str:
    """Return a suggestion of similar names in the folder of a path; empty if there are none."""
    folder = path.expanduser().parent
    names = [file.name for file in folder.glob("[!.]*")] if folder.is_dir() else []
    close = difflib.get_close_matches(path.name, names)
    return f"; {suggest(path.name, close)}" if close else ""


def read_weights(
    model: DenseModel, artifact: Artifact, frozen: Sequence[str], expected: str
) -> None:
    """Read the stored tensors into ``model``, one at a time.

    Args:
        model: model of the stored configuration.
        artifact: saved model.
        frozen: paths in the method of the parts that are stored by reference.
        expected: fingerprint of the stored tensors.

    Raises:
        InputError: if the file is missing, truncated or changed, or has the tensors of another
            model.
    """
    path = artifact.weights
    check_complete(path)
    state = stored_state(model, frozen)
    with open_tensors(path) as file:
        names = {name for name in file.names if not name.startswith(PREFIX)}
        _check_names(path, set(state), names)

        def tensors() -> Any:
            for name in sorted(state):
                value, target = file.tensor(name), state[name]
                if value.shape != target.shape:
                    raise InputError(
                        f"{path}: {name} has shape {tuple(value.shape)}, its configuration "
                        f"needs {tuple(target.shape)}: both must come from one save"
                    )
                if not name.startswith("task."):  # a codec that was not fitted has NaN
                    require_finite([(name, value)], path)
                with torch.no_grad():
                    target.copy_(value)
                yield name, value

        actual = fingerprint(tensors())
    if actual != expected:
        raise InputError(
            f"{path}: its tensors are not those that were saved (fingerprint {actual[:12]}, not "
            f"{expected[:12]}): copy or download the model again"
        )


def stored_state(model: DenseModel, frozen: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the tensors that are stored in a saved model.

    Args:
        model: model to save or load.
        frozen: paths in the method of the parts that are stored by reference, without tensors.
    """
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
    config_path: Path,
) -> None:
    """Set a frozen part of a method that is stored by reference; load it if it is not shared.

    Args:
        method: method of the model.
        path: path of the part in the method.
        entry: stored reference to the part: ``source``, ``revision`` and ``fingerprint``.
        entries: references to all frozen parts by path.
        backbone: where the source of the first part is now, if it has moved.
        shared: parts that were loaded before; a newly loaded part is added.
        key: beginning of the part's key in ``shared``.
        config_path: file of the configuration, for messages.

    Raises:
        InputError: if the part cannot be loaded, or its weights are not those of the training.
    """
    try:
        part = method.get_submodule(path)
    except AttributeError:
        part = None
    if not isinstance(part, PretrainedPart):
        raise InputError(f"{config_path}: has no frozen part {path!r}: copy it again")
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
                f"{config_path}: its frozen backbone cannot be loaded ({error}): give its folder "
                "or hub id with --backbone (in Python backbone=...)"
            ) from None
        actual = fingerprint(part.state_dict().items())
        if actual != entry["fingerprint"]:
            raise InputError(
                f"{config_path}: was trained on {entry['source']} ({entry['fingerprint'][:12]}), "
                f"not on {source} ({actual[:12]}): give the backbone that it was trained on "
                "(--backbone)"
            )
        if moved:  # saving the model again must refer to the original source
            part.source, part.revision = entry["source"], entry.get("revision")
        shared[key] = part
    method.set_submodule(path, shared[key])


def _check_arguments(call: Any, artifact: Artifact, path: Path, trusted: Sequence[str]) -> None:
    """Refuse arguments of the method that its weights contradict, such as a number of passes.

    Other problems are left to the functions that build the model and read its weights.

    Args:
        call: constructor call of the method as data.
        artifact: saved model.
        path: file of the configuration, for messages.
        trusted: further packages whose classes may be named.

    Raises:
        InputError: if an argument contradicts the weights.
    """
    try:
        method = resolve_class(call["class_path"], trusted=trusted)
        arguments = call["init_args"]
        check_complete(artifact.weights)
        with open_tensors(artifact.weights) as file:
            names = [n.removeprefix(METHOD) for n in file.names if n.startswith(METHOD)]
    except (InputError, LookupError, TypeError, AttributeError):
        return
    if not issubclass(method, AbstractMethod) or not isinstance(arguments, Mapping):
        return
    for name, stored in method.infer_arguments(names).items():
        given = arguments.get(name, stored)
        if isinstance(given, int) and stored not in (None, given):
            raise InputError(
                f"{path}: {name!r} is {given}, but the weights are of a model whose {name!r} is "
                f"{stored}: both must come from one save"
            )


def _check_names(path: Path, expected: set[str], stored: set[str]) -> None:
    """Check that a file has all tensors of its configuration and no others."""
    missing, unexpected = sorted(expected - stored), sorted(stored - expected)
    if missing or unexpected:
        parts = [
            f"{len(names)} {title} ({_list_names(names)})"
            for title, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise InputError(
            f"{path}: has the tensors of another model than its configuration describes: "
            f"{', '.join(parts)}: both must come from one save"
        )


def _list_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
