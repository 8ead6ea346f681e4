"""Safetensors files and torch checkpoints become tensors; nothing in them is run."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeGuard, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor

from diffsight.errors import InputError
from diffsight.formats.text import reason_of

T = TypeVar("T")


class NotPlainError(ValueError):
    """The pickle of a checkpoint holds more than tensors and plain data, or is damaged."""


class TensorFile:
    """An open safetensors file; use it in a ``with`` statement.

    Args:
        path: of the file.
        line: what is wrong with a damaged file, and the repair; ``{reason}`` in it becomes that of
            the decoder.

    Attributes:
        names: of its tensors.
        metadata: its texts by name.

    Raises:
        InputError: ``PATH: LINE``, here and in the methods.
    """

    def __init__(self, path: Path | str, line: str) -> None:
        self._path, self._line = path, line
        self._file: Any = self._decoded(lambda: safe_open(path, framework="pt").__enter__())
        self.names: list[str] = self._decoded(lambda: list(self._file.keys()))
        self.metadata: dict[str, str] = self._decoded(self._file.metadata) or {}

    def __enter__(self) -> Self:
        """Return the file."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._file.__exit__(kind, error, trace)

    def tensor(self, name: str) -> Tensor:
        """Return a tensor of the file."""
        return self._decoded(lambda: self._file.get_tensor(name))

    def _decoded(self, decode: Callable[[], T]) -> T:
        try:
            return decode()
        except Exception as error:  # on odd headers the decoder raises more than its own errors
            line = self._line.replace("{reason}", reason_of(error))
            raise InputError(f"{self._path}: {line}") from None


def read_safetensors(path: Path | str, line: str) -> dict[str, Tensor]:
    """Return all tensors of a safetensors file.

    Raises:
        InputError: as ``TensorFile``.
    """
    with TensorFile(path, line) as file:
        return {name: file.tensor(name) for name in file.names}


def load_torch(
    path: Path | str,
    *,
    map_location: Any = "cpu",
    mmap: bool = False,
    allowed: Sequence[tuple[Any, str]] = (),
) -> Any:
    """Return the contents of a torch checkpoint, read with ``weights_only=True``.

    Args:
        path: of the file.
        map_location: where its tensors go.
        mmap: read tensors only when they are used; files of older formats are read at once.
        allowed: what stands for further classes, and their names in the file.

    Raises:
        OSError: if it cannot be read.
        NotPlainError: if its pickle holds other classes than tensors and plain data.
        ValueError: if it is damaged.
    """
    zipped = zipfile.is_zipfile(path)
    try:
        if zipped:
            _require_stored(Path(path))
        with torch.serialization.safe_globals(list(allowed)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats
            return torch.load(
                path, map_location=map_location, weights_only=True, mmap=mmap and zipped
            )
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        reason = re.search(r"WeightsUnpickler error: ([^\n]*)", str(error))
        if named:
            raise NotPlainError(f"it names {named[1]}") from None
        text = reason[1] if reason else reason_of(error)
        raise NotPlainError(text or "damaged") from None
    except Exception as error:  # a broken file raises nearly anything
        # the first sentence: further ones advise to run what is in the file
        reason = reason_of(error).partition(". ")[0]
        raise ValueError(reason) from None


def is_dense(value: Any) -> TypeGuard[Tensor]:
    """Whether a value of a checkpoint is a tensor with one number after the other."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_meta
        and not value.is_quantized
    )


def _require_stored(path: Path) -> None:
    """Refuse an archive that unpacks to more than it holds; torch compresses nothing."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > path.stat().st_size:
        raise ValueError(f"unpacks to {unpacked:,} bytes, more than the file has")
