"""Two processes cannot write to one output; a lock ends with its process."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from diffsight.atomic import staging
from diffsight.errors import InputError
from diffsight.locks import LOCK, claim_folder, claim_name, made_folder, share_folder

HOLD = """
import sys, time
from pathlib import Path
from diffsight import locks
with getattr(locks, sys.argv[1])(Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""
Claim = Callable[[Path], AbstractContextManager[None]]


@contextmanager
def other_process(how: str, out: Path) -> Iterator[subprocess.Popen[str]]:
    """Start another process that claims ``out`` with the function ``how`` of ``locks``."""
    command = [sys.executable, "-c", HOLD, how, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("claim", [claim_folder, claim_name], ids=["folder", "name"])
def test_the_message_names_the_other_process_and_a_kill_releases_its_lock(
    claim: Claim, tmp_path: Path
) -> None:
    out = tmp_path / "x"
    with other_process(claim.__name__, out) as other:
        with pytest.raises(InputError) as error, claim(out):
            pass
        who = rf"{re.escape(str(out))}: process {other.pid} on \S+"
        message = rf"{who} has been writing it since \d\d:\d\d"
        assert re.fullmatch(f"{message}: wait for it, or give another --out", str(error.value))
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        with claim(out):
            pass
    assert not list(tmp_path.rglob(".*"))


def test_a_claimed_name_is_locked_by_a_file_next_to_it_and_other_names_are_free(
    tmp_path: Path,
) -> None:
    with claim_name(tmp_path / "a.safetensors"), claim_name(tmp_path / "b.safetensors"):
        names = [f".{name}.safetensors{LOCK}" for name in "ab"]
        assert sorted(os.listdir(tmp_path)) == names
    assert not os.listdir(tmp_path)
    with pytest.raises(InputError, match="not a name for the output"), claim_name(Path()):
        pass


def test_claiming_a_folder_deletes_leftovers_and_finally_its_lock_file(tmp_path: Path) -> None:
    left = staging(tmp_path / "model")
    (left.__enter__() / "half").touch()
    (tmp_path / LOCK).write_text("of a killed process")
    with claim_folder(tmp_path):
        assert os.listdir(tmp_path) == [LOCK]
    assert not os.listdir(tmp_path)


def test_a_folder_that_stays_empty_is_removed(tmp_path: Path) -> None:
    with claim_folder(tmp_path / "empty"):
        pass
    with claim_folder(tmp_path / "full"):
        (tmp_path / "full" / "a").touch()
    assert os.listdir(tmp_path) == ["full"]


def test_several_processes_can_share_a_folder_and_only_the_first_cleans_it(tmp_path: Path) -> None:
    first = staging(tmp_path / "unit.json")
    first.__enter__()
    with share_folder(tmp_path):
        assert os.listdir(tmp_path) == [LOCK]
        live = staging(tmp_path / "unit.json")
        scratch = live.__enter__()
        with other_process("share_folder", tmp_path):
            assert scratch.is_dir()  # a later process deletes nothing
            with pytest.raises(InputError, match="other processes are writing it"):
                claim_folder(tmp_path).__enter__()
    assert (tmp_path / LOCK).exists() is False
    assert scratch.is_dir()


def test_a_folder_claimed_by_another_process_cannot_be_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffsight.locks._WAIT_S", 0.1)
    with (
        other_process("claim_folder", tmp_path) as other,
        pytest.raises(InputError, match=f"process {other.pid} on "),
        share_folder(tmp_path),
    ):
        pass


def test_a_forked_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    claim = claim_folder(tmp_path / "x")
    claim.__enter__()
    child = os.fork()
    if not child:
        time.sleep(30)
        os._exit(0)
    try:
        claim.__exit__(None, None, None)
        with claim_folder(tmp_path / "x"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_planted_link_is_not_opened(tmp_path: Path) -> None:
    treasure = tmp_path / "treasure"
    treasure.write_text("precious")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / LOCK).symlink_to(treasure)
    with pytest.raises(InputError, match="cannot be written"), claim_folder(tmp_path / "x"):
        pass
    assert treasure.read_text() == "precious"


def test_a_file_system_without_locks_is_warned_about_and_nothing_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(file: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    left = staging(tmp_path / "model")
    scratch = left.__enter__()
    with claim_folder(tmp_path):
        assert scratch.is_dir()
    (record,) = caplog.records
    assert "no locks on this file system (No locks available)" in record.message
    assert os.listdir(tmp_path) == [scratch.name]


def test_only_empty_new_folders_are_removed_again(tmp_path: Path) -> None:
    with made_folder(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with made_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "file").write_text("")
    assert [one.name for one in (tmp_path / "a").iterdir()] == ["file"]
    (tmp_path / "old").mkdir()
    with made_folder(tmp_path / "old"):
        pass
    assert (tmp_path / "old").is_dir()
