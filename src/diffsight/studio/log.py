"""An append-only log: a record is on disk before it is acknowledged.

The log is a file of JSON lines, each with a number and a checksum. From time to time the state that
the records lead to is written to a snapshot, and the log starts anew. The snapshot holds the number
of the last record in it, so a process that is killed between the two steps loses nothing.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffsight.atomic import replacing
from diffsight.errors import InputError
from diffsight.formats.text import parse_json

LOG, SNAPSHOT = "log.jsonl", "snapshot.json"
FORMAT = 1  # of the snapshot
MAX_BYTES = 4_000_000  # of the log before it is compacted
log = logging.getLogger(__name__)


class DiskError(InputError):
    """Something could not be written. The same request may succeed when there is space again."""


class RecordLog:
    """The records of a workspace, in the order in which they were appended.

    Args:
        folder: workspace. No other process may write it at the same time.

    Attributes:
        number: number of the last record; 0 for an empty log.
        snapshot: state of the snapshot; None without one.
        records: records after the snapshot; emptied by ``take_records``.

    Raises:
        InputError: if the log or the snapshot is damaged, or cannot be read or written. A last line
            without an end is dropped, because it was never acknowledged.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._snapshot_path = folder / LOG, folder / SNAPSHOT
        self.number = 0
        self.snapshot: dict[str, Any] | None = None
        self.records: list[dict[str, Any]] = []
        self._is_broken = False
        with _disk(self._path):
            if self._snapshot_path.exists():
                self.number, self.snapshot = _read_snapshot(self._snapshot_path)
            self._read()
            self._file = self._path.open("ab", buffering=0)
            self._bytes = self._path.stat().st_size
            _sync_folder(folder)

    def take_records(self) -> list[dict[str, Any]]:
        """Return the records after the snapshot, and forget them."""
        records, self.records = self.records, []
        return records

    def append(self, record: Mapping[str, Any]) -> int:
        """Write a record; return its number when it is on disk.

        Raises:
            DiskError: if it cannot be written. The log is then as it was before.
        """
        if self._is_broken:
            raise DiskError(
                f"{self._path}: an earlier write failed: make space on the disk, and start the "
                "studio again"
            )
        if os.fstat(self._file.fileno()).st_nlink == 0:  # written bytes would be lost
            raise DiskError(f"{self._path}: was deleted: nothing was saved; start the studio again")
        line = _to_line(self.number + 1, record)
        try:
            _write(self._file.fileno(), line)
            os.fsync(self._file.fileno())
        except OSError as error:
            self._undo_write()
            raise DiskError(
                f"{self._path}: cannot be written ({error.strerror or error}): nothing was saved; "
                "make space on the disk"
            ) from None
        self._bytes += len(line)
        self.number += 1
        return self.number

    @property
    def is_long(self) -> bool:
        """Whether the log should be compacted."""
        return self._bytes > MAX_BYTES

    def compact(self, state: Mapping[str, Any]) -> None:
        """Write a snapshot, and start a new log.

        Args:
            state: the state that all records lead to, as plain data.

        Raises:
            InputError: if it cannot be written; the old files then stay.
        """
        text = json.dumps(state, sort_keys=True, separators=(",", ":"), allow_nan=False)
        content = {
            "format": FORMAT,
            "number": self.number,
            "checksum": _checksum(self.number, text),
        }
        with replacing(self._snapshot_path) as partial:
            _write_file(partial, json.dumps({**content, "state": text}).encode())
        _sync_folder(self._path.parent)
        self._file.close()  # Windows does not replace an open file
        try:
            with replacing(self._path) as partial:
                _write_file(partial, b"")
        finally:
            self._file = self._path.open("ab", buffering=0)
            self._bytes = self._path.stat().st_size
        _sync_folder(self._path.parent)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _undo_write(self) -> None:
        """Cut off a record that was written in part."""
        try:
            os.ftruncate(self._file.fileno(), self._bytes)
            os.fsync(self._file.fileno())
        except OSError:
            self._is_broken = True

    def _read(self) -> None:
        """Read the log; cut off a last line that has no end."""
        if not self._path.exists():
            return
        data = self._path.read_bytes()
        end = data.rfind(b"\n") + 1
        for position, line in enumerate(data[:end].split(b"\n")[:-1], start=1):
            number, record = self._parse(position, line)
            if number <= self.number:  # of the snapshot: killed before the new log was started
                continue
            if number != self.number + 1:
                raise InputError(
                    f"{self._path}: line {position}: record {number} follows record {self.number}: "
                    "records are missing; restore the file from a backup"
                )
            self.number = number
            self.records.append(record)
        if end < len(data):
            log.info("%s: an unfinished last line of %d bytes dropped", self._path, len(data) - end)
            with self._path.open("r+b") as file:
                file.truncate(end)
                os.fsync(file.fileno())

    def _parse(self, position: int, line: bytes) -> tuple[int, dict[str, Any]]:
        """Return number and record of a line.

        Raises:
            InputError: if the line is damaged.
        """
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            entry = parse_json(line.decode())
            number, record = entry["number"], entry["record"]
            if entry["checksum"] == _checksum(number, _to_text(record)) and number > 0:
                return number, record
        raise InputError(
            f"{self._path}: line {position} is damaged: restore the file from a backup, or delete "
            "this line and all lines after it"
        )


def _to_text(record: Mapping[str, Any]) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _checksum(number: int, text: str) -> str:
    return hashlib.sha256(f"{number} {text}".encode()).hexdigest()[:16]


def _to_line(number: int, record: Mapping[str, Any]) -> bytes:
    checksum = _checksum(number, _to_text(record))
    entry = {"number": number, "checksum": checksum, "record": record}
    return _to_text(entry).encode() + b"\n"


def _read_snapshot(path: Path) -> tuple[int, dict[str, Any]]:
    """Return the number of the last record in a snapshot, and its state.

    Raises:
        InputError: if it is damaged, or of a newer version.
    """
    is_newer = False
    with contextlib.suppress(ValueError, KeyError, TypeError):
        content = parse_json(path.read_bytes().decode())
        is_newer = content["format"] > FORMAT
        number, text = int(content["number"]), content["state"]
        if not is_newer and content["checksum"] == _checksum(number, text):
            return number, parse_json(text)
    repair = "of a newer version: update diffsight" if is_newer else "damaged: restore a backup"
    raise InputError(f"{path}: {repair}")


def _write(file: int, data: bytes) -> None:
    """Write all bytes; the system may take a part of them at a time."""
    while data:
        data = data[os.write(file, data) :]


def _write_file(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_synced(path: Path, data: bytes) -> None:
    """Write a whole file, completely or not at all; it is on disk when this returns.

    Raises:
        InputError: if it cannot be written.
    """
    with replacing(path) as partial:
        _write_file(partial, data)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Wait until new names in a folder are on disk, where the system can do that."""
    with contextlib.suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: cannot be used ({error.strerror or error}): check the permissions"
        ) from error
