"""Checkpoint files: written completely or not at all, read without executing code."""

import hashlib
import os
import platform
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor

from diffsight.atomic import replacing
from diffsight.errors import InputError
from diffsight.formats.tensors import is_dense, load_torch
from diffsight.formats.text import reading

SEAL = "diffsight_sha256"  # key of the checksum of all other entries
KEY = "diffsight"  # key of diffsight's entry; the other entries are Lightning's
# packages whose versions are recorded in checkpoints
PACKAGES = ("diffsight", "torch", "lightning", "diffusers", "transformers", "numpy")


class AtomicCheckpoints(CheckpointIO):
    """Lightning plugin that writes a checkpoint completely, or keeps the previous file intact."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            OSError: if it cannot be written; the message has one line.
        """
        try:
            save_torch({**checkpoint, SEAL: digest(checkpoint)}, Path(path))
        except InputError as error:
            cause = error.__cause__
            reason = (cause.strerror if isinstance(cause, OSError) else None) or cause
            raise OSError(
                f"the checkpoint {path} could not be written ({reason}); the previous one is intact"
            ) from None

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint without executing code in it, whatever ``weights_only`` says.

        Raises:
            InputError: if it is damaged, or not a checkpoint of diffsight.
        """
        return load(path, map_location=map_location, check=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)


def save_torch(content: Any, path: Path) -> None:
    """Write a file with ``torch.save``, and wait until it is on disk.

    Args:
        content: plain data and tensors, which ``torch.load`` reads with ``weights_only``.
        path: path of the file.

    Raises:
        InputError: if it cannot be written.
    """
    with replacing(path) as partial, partial.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # raised after a short write
            cause = error.__cause__ or error.__context__
            if isinstance(cause, OSError):
                raise cause from None
            raise OSError(str(error).splitlines()[0]) from None
        file.flush()
        os.fsync(file.fileno())


def load(
    path: str | Path, *, map_location: Any = "cpu", mmap: bool = False, check: bool = False
) -> dict[str, Any]:
    """Return a checkpoint of ``fit``, ``pretrain`` or ``adapt``.

    Args:
        path: path of the checkpoint.
        map_location: device of the tensors.
        mmap: map the file into memory, so that tensors are read only when they are used.
        check: verify the checksum of the contents.

    Raises:
        InputError: if the file is missing or damaged, cannot be read without executing code, or is
            not a checkpoint of diffsight.
    """
    if not Path(path).exists():
        raise InputError(f"{path}: no such checkpoint: start without --resume")
    with reading(path, "not a readable checkpoint ({reason}): restore it or start again"):
        checkpoint = load_torch(path, map_location=map_location, mmap=mmap)
    if not isinstance(checkpoint, dict) or KEY not in checkpoint:
        raise InputError(
            f"{path}: not a checkpoint of diffsight: give the output folder of an interrupted run"
        )
    expected = checkpoint.pop(SEAL, None)  # missing in files of earlier versions
    if check and expected is not None and digest(checkpoint) != expected:
        raise InputError(
            f"{path}: damaged (its contents do not match their checksum): restore it or start again"
        )
    return checkpoint


def digest(content: Any) -> str:
    """Return the SHA-256 of nested plain data and tensors, as hexadecimal digits."""
    sum_ = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            sum_.update(f"tensor {value.dtype} {tuple(value.shape)}\n".encode())
            if is_dense(value) and value.is_contiguous():
                flat = value.detach().cpu().reshape(-1).view(torch.uint8)
                sum_.update(flat.numpy().data)
            elif is_dense(value) and value.untyped_storage().nbytes() >= value.nbytes:
                add(value.contiguous())
        elif isinstance(value, Mapping):
            sum_.update(f"mapping of {len(value)}\n".encode())
            for key, one in value.items():
                add(key)
                add(one)
        elif isinstance(value, list | tuple):
            sum_.update(f"list of {len(value)}\n".encode())
            for one in value:
                add(one)
        else:
            sum_.update(f"{type(value).__name__} {value!r}\n".encode(errors="backslashreplace"))

    add(content)
    return sum_.hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Replace ``target`` by a hard link to ``source``, or by a copy where links are impossible.

    ``target`` is always a complete file. It does not change when ``source`` is replaced later,
    because checkpoints are never written in place.
    """
    with replacing(target) as partial:
        try:
            partial.unlink()
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that a result depends on."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed
