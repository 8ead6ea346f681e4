"""What the folder of a saved model holds, and what is read and noted in it beside the weights."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffsight.errors import InputError
from diffsight.hub.card import card

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
BASELINES = "baselines.safetensors"  # mean map and median of the training labels, by ``fit``
FORMAT = 1


def read_config(folder: Path) -> dict[str, Any]:
    """The contents of a folder's ``config.json``.

    Raises:
        InputError: if it is missing, damaged, of another library or of a newer format.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{folder}: no {CONFIG} in it: give a folder that `diffsight fit`, `diffsight convert` "
            "or diffsight.save wrote"
        ) from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}): copy or download it again") from None
    if not isinstance(config, dict) or not all(
        isinstance(config.get(part), Mapping) for part in ("task", "method")
    ):
        raise InputError(f"{path}: names no task and method: is it a model of diffsight?")
    if config.get("format", FORMAT) > FORMAT:
        version = config.get("diffsight_version", "a newer version")
        raise InputError(f"{path}: written by diffsight {version}: pip install -U diffsight")
    return config


def write_about(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the card and ``config.json``, in this order: the latter makes the folder a model."""
    (folder / CARD).write_text(card(config), encoding="utf-8")
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def record(folder: Path, result: Mapping[str, Any]) -> None:
    """Note an evaluation in ``config.json`` and the card; the same one again replaces itself.

    Args:
        folder: of a saved model.
        result: ``protocol``, ``data``, ``plan`` and ``metrics``, as an evaluation gives them.

    Raises:
        InputError: if the folder holds no model.
        OSError: if it cannot be written; the old files are whole.
    """
    config = read_config(folder)
    same = ("protocol", "data", "plan")
    others = [
        known
        for known in config["info"].get("results", [])
        if any(known.get(part) != result.get(part) for part in same)
    ]
    config["info"]["results"] = [*others, dict(result)]
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as staging:
        write_about(Path(staging), config)
        for name in (CARD, CONFIG):
            os.replace(Path(staging) / name, folder / name)
