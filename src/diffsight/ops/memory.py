"""Memory: what glibc does with what is freed, and what is said when there is too little."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from diffsight.types import InputError

# of <malloc.h>
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
MOST = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Keep the memory of freed tensors for the next ones; whether that could be arranged.

    glibc gives large blocks back to the system, which clears every page when a step asks for them
    again: up to a fifth of a small network's training step (benchmarks/freed_memory.py).
    """
    if not sys.platform.startswith("linux"):
        return False
    option = getattr(ctypes.CDLL(None), "mallopt", None)  # other libraries have none
    return bool(option and option(MMAP_THRESHOLD, MOST) and option(TRIM_THRESHOLD, MOST))


@contextmanager
def memory_for(advice: str) -> Iterator[None]:
    """A context whose lack of memory, of a GPU or of the machine, is told in one line.

    Args:
        advice: the line: where, for what, and what to choose instead.

    Raises:
        InputError: if there is too little.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise InputError(advice) from None
    except RuntimeError as error:  # torch has no class of its own for the machine's
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise InputError(advice) from None
