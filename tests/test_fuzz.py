"""Run a part of benchmarks/fuzz_readers.py: damaged files give one-line errors."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "fuzz_readers.py"


@pytest.fixture(scope="module")
def fuzzed() -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, "--count", "400", "--seed", "1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_no_damaged_file_ends_in_a_traceback(fuzzed: subprocess.CompletedProcess[str]) -> None:
    assert fuzzed.returncode == 0, f"{fuzzed.stdout[-3000:]}\n{fuzzed.stderr[-3000:]}"
    assert " 0 failures" in fuzzed.stdout.splitlines()[-1]


def test_some_damaged_files_are_refused_and_some_are_still_read(
    fuzzed: subprocess.CompletedProcess[str],
) -> None:
    """So readers do not pass the test by refusing every file."""
    last = fuzzed.stdout.splitlines()[-1]
    cases, refused = int(last.split(" cases")[0]), int(last.split(" s: ")[1].split(" refused")[0])
    assert 0.3 * cases < refused < 0.9 * cases
