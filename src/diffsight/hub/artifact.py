"""A saved model on disk: a folder, or one safetensors file with all of it."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffsight.atomic import replacing, staging
from diffsight.errors import InputError
from diffsight.formats.tensors import TensorFile, read_safetensors
from diffsight.formats.text import DAMAGE, parse_json, read_text, reading
from diffsight.hub.card import card
from diffsight.hub.check import check_config
from diffsight.weights import write_tensors

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
BASELINES = "baselines.safetensors"  # mean map and median of the training labels
PREFIX = "baselines."  # of the same in a single file
KEY = "diffsight"  # of a single file's metadata
DAMAGED = "damaged ({reason}): copy or download it again"


@dataclass(frozen=True)
class Artifact:
    """Where a saved model is.

    Attributes:
        path: of the folder, or of the file.
    """

    path: Path

    @property
    def is_file(self) -> bool:
        """Whether it is a single file."""
        return self.path.is_file()

    @property
    def weights(self) -> Path:
        """The file that holds the tensors."""
        return self.path if self.is_file else self.path / WEIGHTS

    def config(self) -> dict[str, Any]:
        """Return the configuration.

        Raises:
            InputError: if it is missing, damaged, of another library or of a newer format.
        """
        where = self.path if self.is_file else self.path / CONFIG
        text = self._text(where)
        with reading(where, "not valid JSON ({reason}): copy or download it again"):
            config = parse_json(text)
        return check_config(where, config)

    def _text(self, where: Path) -> str:
        if self.is_file:
            check_complete(where)
            with opened(where) as file:
                text = file.metadata.get(KEY)
            if text is None:
                raise InputError(
                    f"{where}: not a model of diffsight: give what `diffsight adapt`, `diffsight "
                    "fit` or diffsight.save wrote"
                )
            return text
        if not where.exists():
            raise InputError(
                f"{self.path}: no {CONFIG} in it: give a folder that `diffsight fit`, `diffsight "
                "convert` or diffsight.save wrote"
            )
        with reading(where, "cannot be read ({reason}): copy it again"):
            return read_text(where)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors of a single file, those of the baselines included.

        Raises:
            InputError: if it is damaged.
        """
        return read_safetensors(self.path, DAMAGED)

    def baselines(self) -> dict[str, Tensor]:
        """Return label maps of the training set that are the same for every image; may be empty.

        Raises:
            InputError: if their file is damaged.
        """
        path = self.path if self.is_file else self.path / BASELINES
        if not path.is_file():
            return {}
        line = "damaged ({reason}): delete it, or copy the model again"
        prefix = PREFIX if self.is_file else ""
        with TensorFile(path, line) as file:
            names = [name for name in file.names if name.startswith(prefix)]
            maps = {name.removeprefix(prefix): file.tensor(name) for name in names}
        if any(one.ndim not in (2, 3) for one in maps.values()):
            raise InputError(f"{path}: {line.format(reason='not maps of height and width')}")
        return dict(sorted(maps.items()))

    def write_baselines(self, maps: Mapping[str, Tensor]) -> None:
        """Store label maps of the training set by their names."""
        if not self.is_file:
            with replacing(self.path / BASELINES) as partial:
                write_tensors(maps, partial)
            return
        config, tensors = self.config(), self.tensors()
        kept = {name: value for name, value in tensors.items() if not name.startswith(PREFIX)}
        kept |= {PREFIX + name: value for name, value in maps.items()}
        write_file(self.path, config, kept)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replace configuration and card; the weights stay.

        Raises:
            OSError: if they cannot be written; the old ones are whole.
        """
        if self.is_file:
            write_file(self.path, config, self.tensors())
            return
        with staging(self.path) as scratch:
            write_about(scratch, config)
            for name in (CARD, CONFIG):
                os.replace(scratch / name, self.path / name)


def write_about(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the card and ``config.json``, in this order: the latter makes the folder a model."""
    (folder / CARD).write_text(card(config), encoding="utf-8")
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def write_file(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a model as a single file, whole or not at all.

    Raises:
        InputError: if it cannot be written.
    """
    # facts come in any order; what they hold, such as the measures of a table, keeps its own
    info = {key: config.get("info", {})[key] for key in sorted(config.get("info", {}))}
    with replacing(path) as partial:
        write_tensors(tensors, partial, {KEY: json.dumps({**config, "info": info})})


def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return SHA-256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()


def opened(path: Path) -> TensorFile:
    """Open a safetensors file; one line for whatever is wrong with it."""
    return TensorFile(path, DAMAGED)


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
            header = parse_json(file.read(length).decode()) if length < size else {}
        ends = [
            int(entry["data_offsets"][1])
            for name, entry in header.items()
            if name != "__metadata__"
        ]
    except DAMAGE:
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
