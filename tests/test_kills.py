"""Processes that write one folder are killed at random times; files stay complete."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from diffsight.locks import LOCK, claim_folder

# a program that writes files and a folder repeatedly, in small pieces, as a training does
WRITER = """
import hashlib, os, shutil, sys, time
from pathlib import Path
from diffsight.atomic import replacing, staging
from diffsight.errors import InputError
from diffsight.locks import claim_folder

def write(path, number):
    content = os.urandom(200_000)
    with path.open("wb") as file:
        for start in range(0, len(content), 10_000):
            file.write(content[start : start + 10_000])
            file.flush()
        file.write(hashlib.sha256(content).digest())

out = Path(sys.argv[1])
while True:
    try:
        with claim_folder(out):
            for number in range(1_000_000):
                for name in ("last.ckpt", "best.ckpt"):
                    with replacing(out / name) as partial:
                        write(partial, number)
                with staging(out / "model") as scratch:
                    write(scratch / "weights", number)
                    if (out / "model").exists():
                        shutil.rmtree(out / "model")
                    scratch.rename(out / "model")
    except InputError as error:
        if "writing it" not in str(error):
            raise
        time.sleep(0.01)
"""


def kill_owners(out: Path, kills: int, seed: int) -> int:
    """Start two writers of a folder, and kill the one that owns it ``kills`` times.

    Returns:
        Number of complete files that were found after the kills.
    """
    moments, whole = random.Random(seed), 0
    pair = [_start(out) for _ in range(2)]
    try:
        for _ in range(kills):
            owner = _wait_for_owner(out, pair)
            time.sleep(moments.uniform(0, 0.1))
            os.kill(owner.pid, signal.SIGKILL)
            owner.wait()
            whole += count_whole_files(out)
            pair[pair.index(owner)] = _start(out)
        _wait_for_owner(out, pair)
    finally:
        for process in pair:
            process.kill()
            process.wait()
    return whole + count_whole_files(out)


def _start(out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(out)])


def _wait_for_owner(out: Path, pair: Sequence[subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """Wait until one of the two processes owns the folder; return it."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert all(process.poll() is None for process in pair), "a writer has failed"
        try:
            pid = json.loads((out / LOCK).read_text())[0]
        except (OSError, ValueError):
            pid = None
        for process in pair:
            if process.pid == pid:
                return process
        time.sleep(0.001)
    raise AssertionError("nobody has the folder")


def count_whole_files(out: Path) -> int:
    """Check the checksum at the end of each file; return the number of files."""
    files = [out / "last.ckpt", out / "best.ckpt", out / "model" / "weights"]
    count = 0
    for path in files:
        try:  # the other process may be replacing the file
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        assert hashlib.sha256(content[:-32]).digest() == content[-32:], f"{path} is torn"
        count += 1
    return count


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_processes_leave_only_complete_files_and_the_next_run_cleans_up(
    kills: int, tmp_path: Path
) -> None:
    assert kill_owners(tmp_path, kills, seed=kills) >= kills
    with claim_folder(tmp_path):
        pass
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert names <= {"last.ckpt", "best.ckpt", "model", "model/weights"}
