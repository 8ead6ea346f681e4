"""Freed memory is kept for the next tensor instead of being cleared by the system again."""

import errno
import subprocess
import sys

import pytest
import torch

from diffsight.errors import InputError, TooLargeError
from diffsight.ops.memory import keep_freed_memory, memory_for

FAULTS = """
import resource, sys
from diffsight.ops.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
import numpy as np
def touch():
    for _ in range(40):
        np.ones(40 << 17)  # 40 MiB, more than glibc keeps by itself
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_pages_are_not_cleared_again() -> None:
    assert faults("leave") > 40 * 100
    assert faults("keep") < 100


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


def test_too_little_memory_is_one_line() -> None:
    with (
        pytest.raises(InputError, match=r"^choose a smaller size$"),
        memory_for("choose a smaller size"),
    ):
        torch.empty(1 << 50)  # a thousand terabytes, of the machine
    with pytest.raises(InputError, match=r"^a GPU$"), memory_for("a GPU"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    for error in (MemoryError(), RuntimeError("could not create a primitive")):  # NumPy's, oneDNN's
        with pytest.raises(TooLargeError, match=r"^less$"), memory_for("less"):
            raise error
    for error in (  # of CUDA and its libraries, of the kernel, of a process of a DataLoader
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ):
        with pytest.raises(TooLargeError, match=r"^less$"), memory_for("less"):
            raise error
    with pytest.raises(FileNotFoundError), memory_for("another error"):
        raise FileNotFoundError
    with pytest.raises(RuntimeError, match="size of tensor"), memory_for("another error"):
        torch.zeros(2) + torch.zeros(3)
