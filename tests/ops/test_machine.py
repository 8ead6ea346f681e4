"""Free memory, and computations that are refused because they do not fit."""

import subprocess
import sys
from pathlib import Path

import pytest

from diffsight.errors import TooLargeError
from diffsight.ops import machine
from diffsight.ops.machine import available_bytes, require_bytes

LIMITED = """
import numpy as np
from diffsight.ops import machine
machine.available_bytes = lambda device="cpu": 300_000_000
machine.limit_memory()
np.ones(10_000_000)  # 80 MB
try:
    np.ones(80_000_000)  # 640 MB
except MemoryError:
    print("refused")
"""


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a fake kernel with 2 MB of free memory and no containers."""
    (tmp_path / "meminfo").write_text("MemAvailable: 1500 kB\nSwapFree: 500 kB\n")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "cgroup")
    return tmp_path


def test_available_memory_includes_swap(system: Path) -> None:
    assert available_bytes() == 2000 * 1024


@pytest.mark.parametrize(
    ("line", "folder", "limit", "usage", "cached"),
    [
        ("0::/a", "a", "memory.max", "memory.current", "inactive_file"),
        # inside a container, the folder is the root
        ("0::/a", ".", "memory.max", "memory.current", "inactive_file"),
        (
            "4:memory:/a",
            "memory/a",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ],
)
def test_the_limit_of_a_container_reduces_the_available_memory(
    line: str, folder: str, limit: str, usage: str, cached: str, system: Path
) -> None:
    (system / "cgroup").write_text(f"9:cpu:/x\n{line}\n")
    group = system / folder
    group.mkdir(parents=True, exist_ok=True)
    (group / limit).write_text("5000\n")
    (group / usage).write_text("4500\n")
    (group / "memory.stat").write_text(f"anon 7\n{cached} 200\n")
    assert available_bytes() == 700
    (group / limit).write_text("max\n")
    assert available_bytes() == 2000 * 1024


def test_a_computation_that_does_not_fit_is_refused_in_one_line(system: Path) -> None:
    require_bytes(2000 * 1024, "just so", "take less")
    with pytest.raises(TooLargeError) as error:
        require_bytes(3.5e12, "size 99999999 px", "choose a smaller --size")
    assert str(error.value) == (
        "size 99999999 px: takes at least 3.5 TB of memory, 2.0 MB are free: choose a smaller "
        "--size"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_request_for_more_than_the_free_memory_raises_memory_error() -> None:
    command = [sys.executable, "-c", LIMITED]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"
