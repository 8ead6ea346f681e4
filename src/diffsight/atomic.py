"""Write files and folders completely or not at all. This module imports nothing heavy."""

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from diffsight.errors import InputError

# the random number keeps other processes and planted links away from the name
_PARTIAL = re.compile(r"\.(.+)\.[0-9a-f]{16}\.partial", re.DOTALL)
_NAME_CHARS = 40  # of the final name: file systems limit names to 255 bytes


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name[:_NAME_CHARS]}.{secrets.token_hex(8)}.partial")


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield the path of an empty temporary file, which replaces ``path`` when the block succeeds.

    After an error in the block, the temporary file is deleted and ``path`` stays as it was. Several
    processes may write the same path: it always holds the complete file of one of them.

    Raises:
        InputError: if the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    partial = _partial(path)
    with report_unwritable(path):
        # exclusive: does not open an existing file or follow a link
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def report_unwritable(path: Path) -> Iterator[None]:
    """Return a context that turns errors of the file system into one line with a path.

    Raises:
        InputError: if there is such an error.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        repair = "choose a folder that exists, is writable and has space"
        if error.errno == errno.ENAMETOOLONG:
            repair = "give it a shorter name"
        raise InputError(f"{path}: cannot be written ({reason}); {repair}") from error


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Yield a new temporary folder next to ``folder``; it is deleted when the block ends.

    Raises:
        OSError: if the temporary folder cannot be made.
    """
    scratch = _partial(folder)
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files and folders that killed processes left anywhere in a folder.

    No other process may write there at the same time.
    """
    for parent, folders, files in os.walk(folder):
        for name in [name for name in folders if _PARTIAL.fullmatch(name)]:
            folders.remove(name)
            shutil.rmtree(Path(parent, name), ignore_errors=True)
        _unlink(Path(parent, name) for name in files if _PARTIAL.fullmatch(name))


def remove_leftovers_of(path: Path) -> None:
    """Delete the temporary files that killed processes left next to a path and inside it."""
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
