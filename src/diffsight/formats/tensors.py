"""Read tensors from safetensors files and torch checkpoints without running any code in them."""

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
    """The pickle of a checkpoint contains more than tensors and plain data, or is damaged."""


class TensorFile:
    """An open safetensors file; use it in a ``with`` statement.

    Args:
        path: path of the file.
        message: text of the error for a damaged file, with the repair; ``{reason}`` in it is
            replaced by the message of the decoder's error.

    Attributes:
        names: names of the tensors.
        metadata: texts of the header by name.

    Raises:
        InputError: if the file is damaged: ``PATH: MESSAGE``. The methods raise it, too.
    """

    def __init__(self, path: Path | str, message: str) -> None:
        self._path, self._message = path, message
        self._file: Any = self._decode(lambda: safe_open(path, framework="pt").__enter__())
        self.names: list[str] = self._decode(lambda: list(self._file.keys()))
        self.metadata: dict[str, str] = self._decode(self._file.metadata) or {}

    def __enter__(self) -> Self:
        """Return the open file."""
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
        """Return the tensor with this name.

        Raises:
            InputError: if there is no such tensor, or the file is damaged.
        """
        return self._decode(lambda: self._file.get_tensor(name))

    def _decode(self, decode: Callable[[], T]) -> T:
        """Return the result of ``decode``, whose errors become an ``InputError``."""
        try:
            return decode()
        except Exception as error:  # odd headers raise more than the decoder's own errors
            message = self._message.replace("{reason}", reason_of(error))
            raise InputError(f"{self._path}: {message}") from None


def read_safetensors(path: Path | str, message: str) -> dict[str, Tensor]:
    """Return all tensors of a safetensors file by name.

    Args:
        path: path of the file.
        message: text of the error for a damaged file (see ``TensorFile``).

    Raises:
        InputError: if the file cannot be read or is damaged.
    """
    with TensorFile(path, message) as file:
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
        path: path of the file.
        map_location: device of the tensors, as ``torch.load`` takes it.
        mmap: read tensors only when they are used; files in the old format are read at once.
        allowed: further classes or functions that the pickle may use: pairs of the object to use
            and its name in the file.

    Raises:
        OSError: if the file cannot be read.
        NotPlainError: if its pickle contains more than tensors, plain data and ``allowed``.
        ValueError: if the file is damaged.
    """
    is_zip = zipfile.is_zipfile(path)
    try:
        if is_zip:
            _require_uncompressed(Path(path))
        with torch.serialization.safe_globals(list(allowed)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats
            return torch.load(
                path, map_location=map_location, weights_only=True, mmap=mmap and is_zip
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
    except Exception as error:  # a damaged file raises errors of nearly any type
        # only the first sentence: later ones advise to run the code in the file
        reason = reason_of(error).partition(". ")[0]
        raise ValueError(reason) from None


def is_dense(value: Any) -> TypeGuard[Tensor]:
    """Return whether a value of a checkpoint is a dense tensor with data.

    Sparse and quantised tensors and those on the meta device are not.
    """
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_meta
        and not value.is_quantized
    )


def _require_uncompressed(path: Path) -> None:
    """Refuse a checkpoint that unpacks to more bytes than its file has.

    Torch does not compress checkpoints, so such a file is damaged or made to fill the memory.

    Raises:
        ValueError: if it does.
    """
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > path.stat().st_size:
        raise ValueError(f"it unpacks to {unpacked:,} bytes, more than the file has")
