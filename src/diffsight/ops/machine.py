"""How much memory the machine has free. This module imports nothing heavy."""

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
    """Return the memory that a device has free; None where nobody says.

    On Linux that is what the kernel would give without ending a process, within the limits of the
    container; elsewhere it is all memory of the machine.
    """
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    if not sys.platform.startswith("linux"):
        return _whole_machine()
    fields = dict(re.findall(r"(\w+): +(\d+) kB", _text(MEMINFO)))
    limits = [1024 * (int(fields["MemAvailable"]) + int(fields.get("SwapFree", 0)))]
    return max(0, min([*limits, *_container_limits()]))


def require_bytes(needed: int | float, what: str, repair: str, *, device: str = "cpu") -> None:
    """Refuse what cannot fit into memory, before it is computed.

    Args:
        needed: bytes that it takes at least.
        what: it, with its size.
        repair: what to choose instead.
        device: whose memory it takes.

    Raises:
        TooLargeError: one line, if there is less.
    """
    free = available_bytes(device)
    if free is not None and needed > free:
        raise TooLargeError(
            f"{what}: takes at least {_shown(needed)} of memory, {_shown(free)} are free: {repair}"
        )


def limit_memory() -> None:
    """Let requests for more memory than is free fail, instead of the kernel ending the process.

    Only on Linux and without a GPU, whose driver reserves more than it uses.
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
    """Yield what the control groups of this process have left, of both versions."""
    for line in _text(OWN_CGROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        version_2 = not controllers
        if not version_2 and "memory" not in controllers.split(","):
            continue
        base = CGROUPS if version_2 else CGROUPS / "memory"
        limit, usage = (
            ("memory.max", "memory.current")
            if version_2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        cached = "inactive_file" if version_2 else "total_inactive_file"
        for group in {base / path.lstrip("/"), base}:  # in a container it is mounted as the root
            most, now = _text(group / limit).strip(), _text(group / usage).strip()
            if most.isdecimal() and now.isdecimal():
                free_again = re.findall(rf"^{cached} (\d+)", _text(group / "memory.stat"), re.M)
                yield int(most) - int(now) + sum(map(int, free_again))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _shown(size: int | float) -> str:
    power = min(4, max(1, int(math.log10(max(size, 1)) // 3)))
    return f"{size / 1000**power:,.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"
