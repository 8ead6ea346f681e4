"""A saved model on disk: a folder, or one safetensors file that holds everything."""

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
from diffsight.choices import EXPORT_SUFFIXES
from diffsight.errors import InputError
from diffsight.formats.tensors import TensorFile, read_safetensors
from diffsight.formats.text import DAMAGE_ERRORS, parse_json, read_text, reading
from diffsight.hub.card import format_card
from diffsight.hub.check import check_config
from diffsight.weights import write_tensors

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
BASELINES = "baselines.safetensors"  # mean map and median of the training labels
PREFIX = "baselines."  # prefix of the names of these tensors in a single file
KEY = "diffsight"  # key of the configuration in the metadata of a single file
DAMAGED = "damaged ({reason}): copy or download it again"


@dataclass(frozen=True)
class Artifact:
    """The folder or the single file of a saved model.

    Attributes:
        path: path of the folder, or of the file.
    """

    path: Path

    @property
    def is_file(self) -> bool:
        """Whether the model is a single file."""
        return self.path.is_file()

    @property
    def weights(self) -> Path:
        """The file that holds the tensors."""
        return self.path if self.is_file else self.path / WEIGHTS

    def config(self) -> dict[str, Any]:
        """Return the configuration.

        Raises:
            InputError: if it is missing or damaged, or if another library or a newer version of
                diffsight wrote it.
        """
        path = self.path if self.is_file else self.path / CONFIG
        text = self._read_config_text(path)
        with reading(path, "not valid JSON ({reason}): copy or download it again"):
            config = parse_json(text)
        return check_config(path, config)

    def _read_config_text(self, path: Path) -> str:
        if self.is_file:
            check_complete(path)
            with open_tensors(path) as file:
                text = file.metadata.get(KEY)
            if text is None:
                raise InputError(
                    f"{path}: not a model of diffsight: give a file that `diffsight adapt`, "
                    "`diffsight fit` or diffsight.save wrote"
                )
            return text
        if not path.exists():
            raise InputError(
                f"{self.path}: no {CONFIG} in it: give a folder that `diffsight fit`, `diffsight "
                "convert` or diffsight.save wrote"
            )
        with reading(path, "cannot be read ({reason}): copy it again"):
            return read_text(path)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors of a single file by name, the baselines included.

        Raises:
            InputError: if the file is damaged.
        """
        return read_safetensors(self.path, DAMAGED)

    def baselines(self) -> dict[str, Tensor]:
        """Return the stored baselines: label maps that are the same for every image.

        Returns:
            Maps by name, ``h w`` or (for BEV maps) ``k h w``; empty if none are stored.

        Raises:
            InputError: if the file that holds them is damaged.
        """
        path = self.path if self.is_file else self.path / BASELINES
        if not path.is_file():
            return {}
        message = "damaged ({reason}): delete it, or copy the model again"
        prefix = PREFIX if self.is_file else ""
        with TensorFile(path, message) as file:
            names = [name for name in file.names if name.startswith(prefix)]
            maps = {name.removeprefix(prefix): file.tensor(name) for name in names}
        if any(label_map.ndim not in (2, 3) for label_map in maps.values()):
            raise InputError(f"{path}: {message.format(reason='not maps of height and width')}")
        return dict(sorted(maps.items()))

    def write_baselines(self, maps: Mapping[str, Tensor]) -> None:
        """Replace the stored baselines.

        Args:
            maps: label maps by name, see ``baselines``.

        Raises:
            InputError: if they cannot be written, or a single file is damaged.
        """
        if not self.is_file:
            with replacing(self.path / BASELINES) as partial:
                write_tensors(maps, partial)
            return
        config, tensors = self.config(), self.tensors()
        kept = {name: value for name, value in tensors.items() if not name.startswith(PREFIX)}
        kept |= {PREFIX + name: value for name, value in maps.items()}
        write_file(self.path, config, kept)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replace configuration and card; the weights stay as they are.

        Args:
            config: new configuration.

        Raises:
            OSError: if they cannot be written; the old files stay complete.
        """
        if self.is_file:
            write_file(self.path, config, self.tensors())
            return
        with staging(self.path) as scratch:
            write_card_and_config(scratch, config)
            for name in (CARD, CONFIG):
                os.replace(scratch / name, self.path / name)


def write_card_and_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the card, then ``config.json``, by which a folder is recognised as a saved model."""
    (folder / CARD).write_text(format_card(config), encoding="utf-8")
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def write_file(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a model as a single file, completely or not at all.

    Args:
        path: path of the file.
        config: configuration of the model, which becomes metadata of the file.
        tensors: all tensors by name; those of the baselines begin with ``PREFIX``.

    Raises:
        InputError: if the file cannot be written.
    """
    # entries of ``info`` are set in any order; values, such as the metrics of a table, keep theirs
    info = {key: config.get("info", {})[key] for key in sorted(config.get("info", {}))}
    with replacing(path) as partial:
        write_tensors(tensors, partial, {KEY: json.dumps({**config, "info": info})})


def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes of tensors, sorted by name."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()


def open_tensors(path: Path) -> TensorFile:
    """Return an open safetensors file; a damaged one raises ``InputError`` with one line."""
    return TensorFile(path, DAMAGED)


def check_complete(path: Path) -> None:
    """Check that a safetensors file has the size that its header states.

    Raises:
        InputError: if the file is missing, is no safetensors file, or is cut off.
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
    except DAMAGE_ERRORS:
        length, ends = size, []
    if path.suffix in EXPORT_SUFFIXES.values():
        raise InputError(
            f"{path}: is a file of `diffsight export`, for other runtimes: give the model that it "
            "was made from"
        )
    if length >= size and not ends:
        raise InputError(
            f"{path}: no safetensors file, or cut off within its header ({size:,} bytes): copy or "
            "download it again"
        )
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise InputError(
            f"{path}: has {size:,} bytes, but should have {expected:,}: copy or download it again"
        )
