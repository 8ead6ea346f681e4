"""Free memory of the machine or a GPU. This module imports no large packages."""

import math
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from diffsight.errors import TooLargeError

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
MEMINFO = Path("/proc/meminfo")


def available_bytes(device: str = "cpu") -> int | None:
    """Return the free memory of a device in bytes; None if the system does not report it.

    For a CPU on Linux this is the memory that the kernel can allocate without ending a process,
    within the limits of the container. On other systems it is the whole memory of the machine.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
    """
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    if not sys.platform.startswith("linux"):
        return _whole_machine()
    fields = dict(re.findall(r"(\w+): +(\d+) kB", _text(MEMINFO)))
    limits = [1024 * (int(fields["MemAvailable"]) + int(fields.get("SwapFree", 0)))]
    return max(0, min([*limits, *_container_limits()]))


def require_bytes(needed: int | float, subject: str, repair: str, *, device: str = "cpu") -> None:
    """Refuse a computation that does not fit into the free memory, before it starts.

    Args:
        needed: lower bound of the required memory in bytes.
        subject: the computation and its size, as the beginning of the message.
        repair: advice to the user, as the end of the message.
        device: device whose memory is used.

    Raises:
        TooLargeError: if less memory is free.
    """
    free = available_bytes(device)
    if free is not None and needed > free:
        raise TooLargeError(
            f"{subject}: takes at least {_format_bytes(needed)} of memory, "
            f"{_format_bytes(free)} are free: {repair}"
        )


def limit_memory() -> None:
    """Make requests for more than the free memory fail, before the kernel ends the process.

    This works only on Linux and without an NVIDIA GPU, whose driver reserves more memory than it
    uses.
    """
    free = available_bytes()
    if not sys.platform.startswith("linux") or Path("/dev/nvidiactl").exists() or free is None:
        return
    import resource

    used = 1024 * int(re.findall(r"VmData:\s+(\d+)", _text(Path("/proc/self/status")))[0])
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_DATA, (used + free, hard))


def _whole_machine() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _container_limits() -> Iterator[int]:
    """Yield the free bytes in the control groups of this process (versions 1 and 2)."""
    for line in _text(OWN_CGROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        is_version_2 = not controllers
        if not is_version_2 and "memory" not in controllers.split(","):
            continue
        base = CGROUPS if is_version_2 else CGROUPS / "memory"
        limit, usage = (
            ("memory.max", "memory.current")
            if is_version_2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        cached = "inactive_file" if is_version_2 else "total_inactive_file"
        for group in {base / path.lstrip("/"), base}:  # a container mounts it as the root
            maximum, used = _text(group / limit).strip(), _text(group / usage).strip()
            if maximum.isdecimal() and used.isdecimal():
                reclaimable = re.findall(rf"^{cached} (\d+)", _text(group / "memory.stat"), re.M)
                yield int(maximum) - int(used) + sum(map(int, reclaimable))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _format_bytes(size: int | float) -> str:
    power = min(4, max(1, int(math.log10(max(size, 1)) // 3)))
    return f"{size / 1000**power:,.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"
