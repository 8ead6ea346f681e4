"""The log keeps every acknowledged record, whatever is cut off or killed."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from diffsight.errors import InputError
from diffsight.studio.log import LOG, SNAPSHOT, DiskError, RecordLog

RECORDS: list[dict[str, Any]] = [{"do": "x", "n": n, "text": "ä" * n} for n in range(6)]


def write(folder: Path, records: list[dict[str, Any]] = RECORDS) -> Path:
    log = RecordLog(folder)
    for record in records:
        log.append(record)
    log.close()
    return folder / LOG


def read(folder: Path) -> list[dict[str, Any]]:
    log = RecordLog(folder)
    log.close()
    return log.records


def test_records_come_back_in_their_order(tmp_path: Path) -> None:
    write(tmp_path)
    assert read(tmp_path) == RECORDS


def test_a_log_cut_off_at_any_byte_keeps_all_complete_records(tmp_path: Path) -> None:
    path = write(tmp_path)
    data = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    for size in range(ends[-4], len(data) + 1):
        path.write_bytes(data[:size])
        complete = sum(end <= size for end in ends)
        assert read(tmp_path) == RECORDS[:complete], size
        # the log goes on after the last complete record
        log = RecordLog(tmp_path)
        assert log.append({"do": "new"}) == complete + 1
        log.close()
        assert read(tmp_path) == [*RECORDS[:complete], {"do": "new"}]


@pytest.mark.parametrize("offset", [3, 60, 150])
def test_damage_in_the_middle_names_the_line(tmp_path: Path, offset: int) -> None:
    path = write(tmp_path)
    data = bytearray(path.read_bytes())
    line = data.count(b"\n", 0, offset) + 1
    data[offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"log\.jsonl: line {line} is damaged.*backup"):
        RecordLog(tmp_path)


def test_a_missing_line_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(InputError, match="line 3: record 4 follows record 2"):
        RecordLog(tmp_path)


def test_compaction_keeps_number_and_state(tmp_path: Path) -> None:
    write(tmp_path)
    log = RecordLog(tmp_path)
    log.compact({"sum": 15})
    assert log.append({"do": "later"}) == len(RECORDS) + 1
    log.close()
    again = RecordLog(tmp_path)
    assert again.snapshot == {"sum": 15}
    assert again.records == [{"do": "later"}]
    assert again.number == len(RECORDS) + 1
    again.close()


def test_a_kill_between_snapshot_and_new_log_repeats_no_record(tmp_path: Path) -> None:
    path = write(tmp_path)
    data = path.read_bytes()
    log = RecordLog(tmp_path)
    log.compact({"sum": 15})
    log.close()
    path.write_bytes(data)  # as it was before the new log replaced it
    again = RecordLog(tmp_path)
    assert again.snapshot == {"sum": 15}
    assert again.records == []
    again.close()


@pytest.mark.parametrize("change", ["state", "number", "format", "text"])
def test_a_damaged_snapshot_is_reported(tmp_path: Path, change: str) -> None:
    write(tmp_path)
    log = RecordLog(tmp_path)
    log.compact({"sum": 15})
    log.close()
    path = tmp_path / SNAPSHOT
    content = json.loads(path.read_text())
    new = {"state": '{"sum":16}', "number": 5, "format": 2}
    path.write_text("{" if change == "text" else json.dumps({**content, change: new[change]}))
    with pytest.raises(InputError, match=r"snapshot\.json: (damaged|of a newer version)"):
        RecordLog(tmp_path)


def test_a_full_disk_leaves_the_log_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    log = RecordLog(tmp_path)
    real, calls = os.write, 0

    def write_half(file: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(28, "No space left on device")
        return real(file, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", write_half)
    with pytest.raises(InputError, match="No space left on device"):
        log.append({"do": "lost"})
    monkeypatch.undo()
    assert log.append({"do": "kept"}) == len(RECORDS) + 1
    log.close()
    assert read(tmp_path) == [*RECORDS, {"do": "kept"}]


def test_a_disk_that_fails_altogether_ends_the_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RecordLog(tmp_path)

    def fail(*arguments: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    for _ in range(2):
        with pytest.raises(InputError, match=r"error|earlier write failed"):
            log.append({"do": "lost"})
    monkeypatch.undo()
    with pytest.raises(InputError, match="earlier write failed"):
        log.append({"do": "lost"})
    log.close()


def test_a_compaction_that_fails_leaves_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    for failing in (SNAPSHOT, LOG):
        log = RecordLog(tmp_path)
        count = log.number

        def fail(self: Path, target: Path, name: str = failing) -> None:
            if target.name == name:
                raise OSError(28, "No space left on device")
            os.replace(self, target)

        monkeypatch.setattr(Path, "replace", fail)
        with pytest.raises(InputError, match="No space left on device"):
            log.compact({"sum": count})
        monkeypatch.undo()
        assert log.append({"do": failing}) == count + 1
        log.close()
        again = RecordLog(tmp_path)
        again.close()
        assert again.number == count + 1
        assert again.records[-1] == {"do": failing}


def test_nothing_is_acknowledged_after_the_log_was_deleted(tmp_path: Path) -> None:
    log = RecordLog(tmp_path)
    log.append(RECORDS[0])
    (tmp_path / LOG).unlink()
    with pytest.raises(DiskError, match="was deleted"):
        log.append(RECORDS[1])
    log.close()
