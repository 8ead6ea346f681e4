"""Save a model (configuration, weights, card) completely or not at all; upload it to the hub."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from torch import Tensor

import diffsight
from diffsight import assets
from diffsight.atomic import staging
from diffsight.backbones import PretrainedPart
from diffsight.config import to_config
from diffsight.errors import InputError
from diffsight.hub.artifact import (
    BASELINES,
    CARD,
    CONFIG,
    PREFIX,
    WEIGHTS,
    Artifact,
    fingerprint,
    write_card_and_config,
    write_file,
)
from diffsight.hub.build import without_weights
from diffsight.hub.check import FORMAT, check_info
from diffsight.hub.load import resolve, stored_state
from diffsight.model import DenseModel
from diffsight.weights import write_tensors

SINGLE = ".safetensors"  # suffix of a model that is saved as one file


def save(
    model: DenseModel,
    path: str | Path,
    *,
    info: Mapping[str, Any] | None = None,
    embed: bool | None = None,
) -> Path:
    """Write a model as a folder, or as one file where the path ends in ``.safetensors``.

    A folder gets ``config.json``, ``model.safetensors`` and a card; other files in it stay. Files
    are written completely under temporary names and then renamed, so that a full disk or a killed
    process leaves an older model as it was.

    Args:
        model: model to save.
        path: folder, which is made if it does not exist, or file.
        info: plain data that is added to ``model.info``: ``license``, ``datasets``, ``training``,
            ``short_side``, and ``results``, a list of evaluations.
        embed: whether the weights of frozen parts are stored in the saved model (True) or by
            reference (False). Default: by reference if they came unchanged from the package or a
            hub id; with False also if they came from a local folder.

    Returns:
        The path.

    Raises:
        OSError: if a folder cannot be written; the message names the file.
        InputError: if a file cannot be written, or ``info`` has a value that could not be loaded
            again.
    """
    path = Path(path)
    rig = {"reads_rig": True} if model.reads_rig else {}
    model.info = {**model.info, **(info or {}), **rig}
    check_info(model.info)
    frozen = _references(model, embed)
    tensors = stored_state(model, tuple(frozen))
    config = describe(model, frozen, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == SINGLE:
        maps = {PREFIX + name: value for name, value in model.baselines.items()}
        write_file(path, config, tensors | maps)
    else:
        _write_folder(path, config, tensors)
        if model.baselines:
            Artifact(path).write_baselines(model.baselines)
        else:
            (path / BASELINES).unlink(missing_ok=True)  # left from an older model
    model.info["fingerprint"] = config["fingerprint"]
    return path


def push(
    model: DenseModel | str | Path,
    repo_id: str,
    *,
    private: bool = True,
    info: Mapping[str, Any] | None = None,
) -> str:
    """Upload a model to the Hugging Face hub; return the URL of the commit.

    Args:
        model: a model, or the folder or file that ``save`` wrote.
        repo_id: ``owner/name``; the repository is made if it does not exist.
        private: whether a new repository is private.
        info: as for ``save``; only for a model that is not saved yet.

    Raises:
        InputError: if there is no saved model, or if it refers to local files.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        if isinstance(model, DenseModel):
            save(model, folder, info=info)
        elif Path(model).is_file():
            _unpack(Artifact(Path(model)), folder)
        else:
            folder = Path(model)
        missing = [name for name in (CONFIG, WEIGHTS, CARD) if not (folder / name).is_file()]
        if missing:
            raise InputError(
                f"{model}: no {' and no '.join(missing)} in it: give a folder or file that "
                "diffsight.save wrote"
            )
        _refuse_local(folder, Artifact(folder).config()["frozen"])
        api = huggingface_hub.HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=str(folder),
            allow_patterns=[CONFIG, WEIGHTS, CARD, BASELINES],
            delete_patterns=BASELINES,  # of an older model, unless they are replaced
            commit_message="Upload with diffsight",
        )
    return commit.commit_url


def record(source: str | Path, result: Mapping[str, Any]) -> None:
    """Add an evaluation to a saved model and its card.

    It replaces an earlier evaluation with the same protocol, data and plan.

    Args:
        source: folder or file that ``save`` wrote.
        result: ``protocol``, ``data``, ``plan`` and ``metrics``, as ``Evaluation.as_dict`` returns
            them.

    Raises:
        InputError: if there is no model.
        OSError: if it cannot be written; the old files stay complete.
    """
    artifact = resolve(source)
    config = artifact.config()
    result = json.loads(json.dumps(dict(result)))  # with lists for tuples, as in the stored results
    same = ("protocol", "data", "plan")
    others = [
        earlier
        for earlier in config["info"].get("results", [])
        if any(earlier.get(part) != result.get(part) for part in same)
    ]
    config["info"] = {**config["info"], "results": [*others, result]}
    artifact.write_config(config)


def read_baselines(source: str | Path) -> dict[str, Tensor]:
    """Return the baselines that are stored with a model, as ``Artifact.baselines`` does.

    Raises:
        InputError: if there is no model, or if the file of its baselines is damaged.
    """
    return resolve(source).baselines()


def write_baselines(source: str | Path, maps: Mapping[str, Tensor]) -> None:
    """Add baselines to a saved model.

    Args:
        source: folder or file of the saved model.
        maps: predictions that ignore the image (such as the mean map), by name: values or class ids
            ``h w``, or values ``k h w`` on the grid of a BEV map.

    Raises:
        InputError: if there is no saved model.
    """
    resolve(source).write_baselines(maps)


def describe(
    model: DenseModel, frozen: Mapping[str, PretrainedPart], tensors: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Return the configuration that is saved with a model, as plain data for ``config.json``.

    Args:
        model: model to save.
        frozen: parts that are stored by reference, by their path in the method.
        tensors: all other tensors by name.
    """
    call = to_config(model)
    assert isinstance(call, dict)
    config, sources = without_weights(call["init_args"])
    assert isinstance(config, dict)
    # the path of a local folder is of no use on other machines
    names = [Path(name).name if _is_local(name) else name for name in sources]
    base = {"base_weights": list(dict.fromkeys(names))} if names else {}
    info = {k: v for k, v in model.info.items() if k != "fingerprint"}
    return {
        "format": FORMAT,
        "diffsight_version": diffsight.__version__,
        "task": config["task"],
        "method": config["method"],
        "frozen": {
            path: {
                "source": part.source,
                "revision": part.revision,
                "fingerprint": fingerprint(part.state_dict().items()),
            }
            for path, part in frozen.items()
        },
        "parameters": sum(value.numel() for value in model.parameters()),
        "fingerprint": fingerprint(tensors.items()),
        "info": base | info,
    }


def _references(model: DenseModel, embed: bool | None) -> dict[str, PretrainedPart]:
    """Return the frozen parts that are stored by reference, by path; others are embedded.

    Parts whose weights are not float32 are embedded.
    """
    if embed:
        return {}
    parts = {
        path: part
        for path, part in model.method.frozen().items()
        if part.source and all(p.dtype == torch.float32 for p in part.parameters())
    }
    if embed is False:
        return parts
    return {path: part for path, part in parts.items() if not _is_local(part.source or "")}


def _is_local(source: str) -> bool:
    """Return whether a source is on this machine: neither in the package nor a hub id."""
    return source not in assets.NAMES and (Path(source).exists() or source.count("/") != 1)


def _refuse_local(folder: Path, frozen: Mapping[str, Mapping[str, Any]]) -> None:
    local = [entry["source"] for entry in frozen.values() if _is_local(entry["source"])]
    if local:
        raise InputError(
            f"{folder}: refers to {local[0]} on this machine, which others do not have: save it "
            "with embed=True"
        )


def _write_folder(
    directory: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    with staging(directory) as scratch:
        write_card_and_config(scratch, config)
        write_tensors(tensors, scratch / WEIGHTS)
        directory.mkdir(exist_ok=True)
        # the configuration comes last, because it makes the folder a model
        for name in (CARD, WEIGHTS, CONFIG):
            os.replace(scratch / name, directory / name)


def _unpack(artifact: Artifact, folder: Path) -> None:
    """Write a model that is a single file as a folder."""
    maps = artifact.baselines()
    tensors = artifact.tensors()
    kept = {name: value for name, value in tensors.items() if not name.startswith(PREFIX)}
    _write_folder(folder, artifact.config(), kept)
    if maps:
        Artifact(folder).write_baselines(maps)
