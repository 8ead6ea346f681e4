"""Memory: what glibc does with what is freed, and what is said when there is too little."""

import ctypes
import errno
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from diffsight.errors import TooLargeError

# of <malloc.h>
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
MOST = (1 << 31) - 1
# torch has no class of its own for the machine's memory: its allocator's words, oneDNN's, those of
# CUDA and its libraries, and of a process of a DataLoader that the kernel has ended
SIGNS = (
    "DefaultCPUAllocator",
    "could not create a primitive",
    "could not create a memory object",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "is killed by signal: Killed",
)


def keep_freed_memory() -> bool:
    """Keep the memory of freed tensors for the next ones; whether that could be arranged.

    glibc gives large blocks back to the system, which clears every page when a step asks for them
    again: up to a fifth of a small network's training step (benchmarks/freed_memory.py).
    """
    option = _of_glibc("mallopt")
    return bool(option and option(MMAP_THRESHOLD, MOST) and option(TRIM_THRESHOLD, MOST))


def give_back_memory() -> None:
    """Return what is not in use: after a pass that was too large, before a smaller one."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if trim := _of_glibc("malloc_trim"):
        trim(0)


def _of_glibc(name: str) -> Any:
    """A function of the C library; None where that is another one, which has no such."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)


@contextmanager
def memory_for(advice: str) -> Iterator[None]:
    """A context whose lack of memory, of a GPU or of the machine, is reported in one line.

    Args:
        advice: the line: where, for what, and what to choose instead.

    Raises:
        TooLargeError: if there is too little.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise TooLargeError(advice) from None


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that a GPU or the machine has too little memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
