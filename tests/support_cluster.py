"""Work for the workers of a cluster, and the processes of those that this process started."""

import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from diffsight.errors import InputError

WORKER = b"ray::MapWorker"  # how Ray names the process of a worker


def make_multiplier(factor: int, fatal: int | None = None) -> Callable[[int], int]:
    """Return a function that multiplies numbers; ``fatal`` ends its process."""

    def multiply(number: int) -> int:
        if number == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        if number < 0:
            raise InputError(f"{number} is negative: give a positive number")
        if number > 100:
            raise ZeroDivisionError(number)
        return factor * number

    return multiply


multiplier = functools.partial(functools.partial, make_multiplier)


def worker_processes() -> list[int]:
    """Return the ids of the workers among the descendants of this process."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(folder.name)] = int(fields[1])

    def is_own(process: int) -> bool:
        while process > 1 and process != os.getpid():
            process = parents.get(process, 0)
        return process == os.getpid()

    def name_of(process: int) -> bytes:
        try:
            return Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            return b""

    return [one for one in parents if name_of(one).startswith(WORKER) and is_own(one)]


@contextmanager
def killed_worker(when: Callable[[], bool]) -> Iterator[list[int]]:
    """Kill one worker as soon as a condition is true; yield the list of killed processes."""
    killed: list[int] = []
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.02):
            if when() and (workers := worker_processes()):
                os.kill(workers[0], signal.SIGKILL)
                killed.append(workers[0])
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        is_over.set()
        thread.join()
