"""Files and folders that are written whole or not at all. This module imports nothing heavy."""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from diffsight.errors import InputError

# with a number that nobody can guess: no other process has the name, and no link was planted there
_PARTIAL = re.compile(r"\.(.+)\.[0-9a-f]{16}\.partial", re.DOTALL)
_NAME_CHARS = 40  # of the final name: file systems limit names to 255 bytes


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name[:_NAME_CHARS]}.{secrets.token_hex(8)}.partial")


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary file in the folder of ``path``; afterwards it becomes ``path``.

    Several processes may write the same path: it is always the whole file of one of them.

    Raises:
        InputError: if the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    partial = _partial(path)
    try:
        # exclusive: what exists is not opened, and a link is not followed
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{path}: cannot be written ({reason}); choose a folder that exists, is writable and "
            "has space"
        ) from error


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Yield a new folder next to ``folder``; what is not moved out of it is deleted afterwards.

    Raises:
        OSError: if it cannot be made.
    """
    scratch = _partial(folder)
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files and folders of killed processes, in all of a folder.

    Nobody else may write there meanwhile.
    """
    for where, folders, files in os.walk(folder):
        for name in [name for name in folders if _PARTIAL.fullmatch(name)]:
            folders.remove(name)
            shutil.rmtree(Path(where, name), ignore_errors=True)
        _unlink(Path(where, name) for name in files if _PARTIAL.fullmatch(name))


def remove_leftovers_of(path: Path) -> None:
    """Delete what killed processes left of one file or folder, next to it and in it."""
    with contextlib.suppress(OSError):
        for one in list(path.parent.iterdir()):
            match = _PARTIAL.fullmatch(one.name)
            if match is None or match[1] != path.name[:_NAME_CHARS]:
                continue
            if one.is_dir() and not one.is_symlink():
                shutil.rmtree(one, ignore_errors=True)
            else:
                _unlink([one])
    if path.is_dir():
        remove_leftovers(path)


def _unlink(paths: "Iterator[Path] | list[Path]") -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
