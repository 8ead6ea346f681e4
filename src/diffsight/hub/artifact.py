"""A saved model on disk: a folder, or one safetensors file with all of it."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from diffsight.atomic import replacing, staging
from diffsight.errors import InputError
from diffsight.hub.card import card
from diffsight.weights import write_tensors

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
BASELINES = "baselines.safetensors"  # mean map and median of the training labels
PREFIX = "baselines."  # of the same in a single file
KEY = "diffsight"  # of a single file's metadata
FORMAT = 2


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
        try:
            config = json.loads(text)
        except (ValueError, RecursionError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{where}: not valid JSON ({reason}): copy or download it again"
            ) from None
        return _checked(where, config)

    def _text(self, where: Path) -> str:
        if self.is_file:
            check_complete(where)
            with opened(where) as file:
                text = (file.metadata() or {}).get(KEY)
            if text is None:
                raise InputError(
                    f"{where}: not a model of diffsight: give what `diffsight adapt`, `diffsight "
                    "fit` or diffsight.save wrote"
                )
            return text
        try:
            return where.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise InputError(
                f"{self.path}: no {CONFIG} in it: give a folder that `diffsight fit`, `diffsight "
                "convert` or diffsight.save wrote"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{where}: cannot be read ({error}): copy it again") from None

    def baselines(self) -> dict[str, Tensor]:
        """Return label maps of the training set that are the same for every image; may be empty.

        Raises:
            InputError: if their file is damaged.
        """
        path = self.path if self.is_file else self.path / BASELINES
        if not path.is_file():
            return {}
        try:
            maps = load_file(path)
            if self.is_file:
                maps = {n.removeprefix(PREFIX): v for n, v in maps.items() if n.startswith(PREFIX)}
            if any(one.ndim != 2 for one in maps.values()):
                raise SafetensorError("not maps of height and width")
            return dict(sorted(maps.items()))
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path}: damaged ({error}): delete it, or copy the model again"
            ) from None

    def write_baselines(self, maps: Mapping[str, Tensor]) -> None:
        """Store label maps of the training set by their names."""
        if not self.is_file:
            with replacing(self.path / BASELINES) as partial:
                write_tensors(maps, partial)
            return
        config, tensors = self.config(), load_file(self.path)
        kept = {name: value for name, value in tensors.items() if not name.startswith(PREFIX)}
        kept |= {PREFIX + name: value for name, value in maps.items()}
        write_file(self.path, config, kept)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replace configuration and card; the weights stay.

        Raises:
            OSError: if they cannot be written; the old ones are whole.
        """
        if self.is_file:
            write_file(self.path, config, load_file(self.path))
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
    with replacing(path) as partial:
        write_tensors(tensors, partial, {KEY: json.dumps(config)})


def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return SHA-256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file; one line for whatever is wrong with it."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
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
            int(entry["data_offsets"][1])
            for name, entry in header.items()
            if name != "__metadata__"
        ]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
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


def _checked(where: Path, config: Any) -> dict[str, Any]:
    parts = ("task", "method", "info", "frozen")
    if not isinstance(config, dict) or not all(
        isinstance(config.get(part), Mapping) for part in parts[:2]
    ):
        raise InputError(f"{where}: names no task and method: is it a model of diffsight?")
    version = config.get("format", FORMAT)
    if not isinstance(version, int) or version > FORMAT:
        writer = config.get("diffsight_version", "a newer version")
        raise InputError(f"{where}: written by diffsight {writer}: pip install -U diffsight")
    for part in parts:
        if not isinstance(config.get(part), Mapping):
            raise InputError(f"{where}: not whole ({part} is missing): copy it again")
    if not isinstance(config.get("fingerprint"), str):
        raise InputError(f"{where}: not whole (fingerprint is missing): copy it again")
    for path, entry in config["frozen"].items():
        keys = ("source", "fingerprint")
        if not isinstance(entry, Mapping) or not all(isinstance(entry.get(k), str) for k in keys):
            raise InputError(f"{where}: not whole (frozen part {path!r}): copy it again")
        if not isinstance(entry.get("revision"), str | None):
            raise InputError(f"{where}: not whole (revision of {path!r}): copy it again")
    short_side = config["info"].get("short_side")
    if not isinstance(short_side, int | None):
        raise InputError(f"{where}: info.short_side is {short_side!r}: write a number of pixels")
    results = config["info"].get("results", [])
    if not isinstance(results, list) or not all(isinstance(one, Mapping) for one in results):
        raise InputError(f"{where}: info.results is no list of evaluations: delete it")
    return config
