"""Reuse of freed memory, and one-line errors when memory runs out."""

import errno
import subprocess
import sys

import pytest
import torch

from diffsight.errors import InputError, TooLargeError
from diffsight.ops.memory import keep_freed_memory, report_out_of_memory

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


def count_page_faults(mode: str) -> int:
    """Return the number of page faults of repeated allocations; ``mode`` is keep or default."""
    command = [sys.executable, "-c", FAULTS, mode]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_kept_memory_is_reused_without_page_faults() -> None:
    assert count_page_faults("default") > 40 * 100
    assert count_page_faults("keep") < 100


def test_keeping_freed_memory_does_nothing_outside_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


def test_out_of_memory_errors_become_one_line() -> None:
    with (
        pytest.raises(InputError, match=r"^choose a smaller size$"),
        report_out_of_memory("choose a smaller size"),
    ):
        torch.empty(1 << 50)  # 4.5 petabytes
    with pytest.raises(InputError, match=r"^a GPU$"), report_out_of_memory("a GPU"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    for error in (MemoryError(), RuntimeError("could not create a primitive")):  # NumPy, oneDNN
        with pytest.raises(TooLargeError, match=r"^less$"), report_out_of_memory("less"):
            raise error
    for error in (  # from CUDA and its libraries, a DataLoader process, and the kernel
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ):
        with pytest.raises(TooLargeError, match=r"^less$"), report_out_of_memory("less"):
            raise error
    with pytest.raises(FileNotFoundError), report_out_of_memory("another error"):
        raise FileNotFoundError
    with pytest.raises(RuntimeError, match="size of tensor"), report_out_of_memory("another error"):
        torch.zeros(2) + torch.zeros(3)
