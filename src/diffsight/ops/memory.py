"""Reuse freed memory, and report in one line that memory has run out."""

import ctypes
import errno
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from diffsight.errors import TooLargeError

# options of mallopt in <malloc.h>
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
MAX_THRESHOLD = (1 << 31) - 1
# Parts of error messages, because torch has no error class for lack of main memory. They come from
# its allocator, oneDNN, CUDA and its libraries, and a DataLoader process that the kernel has ended.
OUT_OF_MEMORY_MESSAGES = (
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
    """Keep the memory of freed tensors for the next ones; return whether this is supported.

    By default, glibc returns large blocks to the system, which clears every page before the process
    gets it again. This takes up to a fifth of a small network's training step
    (benchmarks/freed_memory.py).
    """
    option = _of_glibc("mallopt")
    if not option:
        return False
    return bool(option(MMAP_THRESHOLD, MAX_THRESHOLD) and option(TRIM_THRESHOLD, MAX_THRESHOLD))


def give_back_memory() -> None:
    """Return unused memory to the system, before a smaller pass follows one that failed."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if trim := _of_glibc("malloc_trim"):
        trim(0)


def _of_glibc(name: str) -> Any:
    """Return a function of glibc; None on systems with another C library."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)


@contextmanager
def report_out_of_memory(advice: str) -> Iterator[None]:
    """Return a context that turns out-of-memory errors of a GPU or the machine into one line.

    Args:
        advice: the message: what failed, and what to choose instead.

    Raises:
        TooLargeError: if memory runs out inside this context.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise TooLargeError(advice) from None


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error means that a GPU or the machine has too little memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(
        message in str(error) for message in OUT_OF_MEMORY_MESSAGES
    )
