"""What glibc does with memory that is freed, for work on a CPU."""

import ctypes
import sys

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
