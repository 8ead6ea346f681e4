"""Locks that keep two runs from writing the same output. This module imports nothing heavy.

The operating system holds a lock as long as a file is open, so the lock ends with the process.
"""

import contextlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from diffsight.atomic import remove_leftovers, remove_leftovers_of
from diffsight.errors import InputError

LOCK = ".lock"
_WAIT_S = 5.0  # time for another process to delete leftovers before it shares the folder
_held: set[int] = set()  # open lock files of this process
log = logging.getLogger(__name__)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: int, *, shared: bool = False) -> None:
        """Lock a byte behind the text of the file, because no process can read a locked byte.

        Raises:
            BlockingIOError: if another process has locked it.
            OSError: if the file system has no locks.
        """
        os.lseek(file, 1 << 30, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(error.errno, error.strerror) from None

    HAS_SHARED_LOCKS = False
else:
    import fcntl

    def _try_lock(file: int, *, shared: bool = False) -> None:
        """Lock a file, exclusively or shared; a lock that this process holds is changed.

        Raises:
            BlockingIOError: if another process has locked it.
            OSError: if the file system has no locks.
        """
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)

    def _close_in_child() -> None:
        """Close the inherited lock files in a forked process: no lock outlives its owner."""
        for file in _held:
            os.close(file)
        _held.clear()

    os.register_at_fork(after_in_child=_close_in_child)
    HAS_SHARED_LOCKS = True


@contextlib.contextmanager
def claim_folder(out: Path) -> Iterator[None]:
    """Make a folder and keep other processes from writing to it while the block runs.

    Temporary files that killed processes left in it are deleted first.

    Raises:
        InputError: if another process writes to the folder (the message names that process), or it
            cannot be written to.
    """
    with made_folder(out), _claim(out, out / LOCK, lambda: remove_leftovers(out)):
        yield


@contextlib.contextmanager
def claim_name(out: Path) -> Iterator[None]:
    """Keep other processes from writing the same output (file or folder) while the block runs.

    The lock file lies next to the output, so that a folder holds the output alone. Temporary files
    of the output that killed processes left are deleted first.

    Raises:
        InputError: if the path has no name (such as ``.``), another process writes the output (the
            message names that process), or it cannot be written.
    """
    if not out.name:
        raise InputError(f"{out}: not a name for the output: give --out a name, such as mine.json")
    with _claim(out, out.with_name(f".{out.name}{LOCK}"), lambda: remove_leftovers_of(out)):
        yield


@contextlib.contextmanager
def share_folder(out: Path) -> Iterator[None]:
    """Make a folder that several processes may write to at the same time.

    The first process deletes the temporary files that killed processes left in it. Windows has no
    shared locks, so nothing is locked or deleted there.

    Raises:
        InputError: if a process has claimed the folder (``claim_folder``), or it cannot be written
            to.
    """
    with made_folder(out):
        if not HAS_SHARED_LOCKS:
            yield
            return
        with _claim(out, out / LOCK, lambda: remove_leftovers(out), shared=True):
            yield


@contextlib.contextmanager
def made_folder(out: Path) -> Iterator[None]:
    """Make a folder; at the end, remove those folders of its path that are new and still empty.

    Raises:
        InputError: if the folder cannot be made.
    """
    made = [path for path in (out, *out.parents) if not path.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(out, error) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()


@contextlib.contextmanager
def _claim(
    out: Path, lock: Path, clean: Callable[[], None], *, shared: bool = False
) -> Iterator[None]:
    """Hold the lock on a lock file while the block runs, then remove the file.

    Args:
        out: output that the lock protects, for messages.
        lock: path of the lock file.
        clean: function that deletes leftovers; it is called while no other process has the lock.
        shared: whether other processes may hold the lock at the same time.
    """
    file, process = _open(out, lock, clean, shared), os.getpid()
    _held.add(file)
    try:
        yield
    finally:
        if os.getpid() == process:
            with contextlib.suppress(OSError):
                if shared:
                    _try_lock(file)  # fails while others share it: the last one removes the file
                lock.unlink()
            _held.discard(file)
            os.close(file)


def _open(out: Path, lock: Path, clean: Callable[[], None], shared: bool) -> int:
    """Open and lock the lock file; return its file descriptor.

    On a file system without locks, log a warning and return the open file.

    Raises:
        InputError: if another process has locked the file, or it cannot be opened.
    """
    end = time.monotonic() + _WAIT_S
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    while True:
        try:
            file = os.open(lock, flags, 0o666)
        except OSError as error:
            raise _unwritable(out, error) from None
        try:
            if _lock(file, lock, clean, shared):
                return file
        except BlockingIOError:
            if not shared or time.monotonic() > end:
                os.close(file)
                raise InputError(
                    f"{out}: {_owner(lock)}: wait for it, or give another --out"
                ) from None
            time.sleep(0.05)
        except OSError as error:
            reason = error.strerror or error
            log.warning(
                "%s: no locks on this file system (%s): let no other run write there", out, reason
            )
            return file
        os.close(file)


def _lock(file: int, lock: Path, clean: Callable[[], None], shared: bool) -> bool:
    """Lock an open file; return whether ``lock`` is still the path of this file.

    It is not if the previous owner removed the file after it was opened here.

    Raises:
        BlockingIOError: if another process has locked it.
        OSError: if the file system has no locks.
    """
    try:
        _try_lock(file)
    except BlockingIOError:
        if not shared:
            raise
    else:
        if not _has_name(file, lock):
            return False
        os.ftruncate(file, 0)  # text of a killed process
        if not shared:
            now = datetime.now().isoformat(timespec="minutes")
            os.write(file, json.dumps([os.getpid(), socket.gethostname(), now]).encode())
        clean()
    if shared:
        _try_lock(file, shared=True)
    return _has_name(file, lock)


def _has_name(file: int, path: Path) -> bool:
    """Return whether a path leads to this open file."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _owner(lock: Path) -> str:
    """Return a description of the process that has locked a file."""
    for _ in range(10):  # the process may not have written its text yet
        with contextlib.suppress(OSError, ValueError, TypeError):
            process, host, time_text = json.loads(lock.read_text(encoding="utf-8"))
            since = datetime.fromisoformat(time_text)
            is_today = since.date() == datetime.now().date()
            shown = f"{since:%H:%M}" if is_today else f"{since:%Y-%m-%d %H:%M}"
            return f"process {process} on {host} has been writing it since {shown}"
        time.sleep(0.05)
    return "other processes are writing it"


def _unwritable(out: Path, error: OSError) -> InputError:
    reason = error.strerror or error
    return InputError(f"{out}: cannot be written ({reason}): choose another --out")
