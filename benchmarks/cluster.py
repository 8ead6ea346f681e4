"""Compare ``diffsight predict --engine ray`` with one process, with failures and a restart.

Rendered rooms, one of them damaged, are predicted by one process, by two workers, and by two
workers of which one is killed; then the command itself is killed, and started again. The table has
the seconds of each run, the peak memory of the command and of the largest worker, and whether all
files and lines are those of the one process. The rate counts from the first result on, after all
processes have started. Memory is flat if the second half of the run needs no
more than the first. The exit status is 1 if a file or a line differs.

    python benchmarks/cluster.py [--write]              # about ten minutes on an idle machine
    python benchmarks/cluster.py --count 60 --size 96   # a test run
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from reporting import paragraph, say, table, write_block
from tiny_model import tiny

import diffsight
from diffsight.rooms import Rooms

PLAN = ("--device", "cpu", "--batch-size", "2", "--flip", "--json")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "cluster.md"
RAY = ("--engine", "ray", "--workers", "2", "--threads", "1")
WORKER = "ray::MapWorker"
POLL_S = 0.2
MEGABYTE = 1024  # kilobytes


@dataclass
class Run:
    """One run of the command.

    Attributes:
        seconds: time from its start to its end.
        first_s: time from its start to its first result.
        images: number of images that it predicted.
        lines: its JSON lines, without the folders.
        driver: peak memory of the command in kilobytes, in the first and the second half.
        worker: the same of the largest worker.
    """

    seconds: float = 0.0
    first_s: float = 0.0
    images: int = 0
    lines: list[dict[str, object]] = field(default_factory=list)
    driver: list[int] = field(default_factory=lambda: [0, 0])
    worker: list[int] = field(default_factory=lambda: [0, 0])


def processes() -> dict[int, tuple[int, str, int]]:
    """Return the parent, the name and the memory in kilobytes of every process."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            name = (folder / "cmdline").read_bytes().decode(errors="replace")
            pages = int((folder / "statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
        found[int(folder.name)] = (parent, name, pages * os.sysconf("SC_PAGE_SIZE") // 1024)
    return found


def workers_of(driver: int, table: dict[int, tuple[int, str, int]]) -> list[int]:
    """Return the ids of the workers among the descendants of a process."""

    def descends(process: int) -> bool:
        while process > 1 and process != driver:
            process = table.get(process, (0, "", 0))[0]
        return process == driver

    return [p for p, (_, name, _) in table.items() if name.startswith(WORKER) and descends(p)]


def predict(folder: Path, out: Path, *more: str, kill_worker: int = 0, kill_driver: int = 0) -> Run:
    """Run the command, and kill a worker or the command after a number of results."""
    run, count = Run(), len(list((folder / "photos").iterdir()))
    earlier = len(list(out.rglob("*.json")))
    command = [sys.executable, "-m", "diffsight", "predict", "photos", "--model", "model"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    with (folder / "lines.jsonl").open("w+") as lines:
        driver = subprocess.Popen(
            [*command, "--out", out.name, *PLAN, *more],
            **{"cwd": folder, "stdout": lines, "stderr": subprocess.DEVNULL, "env": environment},
        )
        while driver.poll() is None:
            time.sleep(POLL_S)
            table, written = processes(), len(list(out.rglob("*.json")))
            if written > earlier and not run.first_s:
                run.first_s = time.perf_counter() - start
            workers, half = workers_of(driver.pid, table), int(written > count // 2)
            run.driver[half] = max(run.driver[half], table.get(driver.pid, (0, "", 0))[2])
            sizes = (table[one][2] for one in workers)
            run.worker[half] = max(run.worker[half], *sizes, 0)
            if kill_worker and written >= kill_worker and workers:
                os.kill(workers[0], signal.SIGKILL)
                kill_worker = 0
            if kill_driver and written >= kill_driver:
                driver.kill()
        run.seconds = time.perf_counter() - start
        run.images = len(list(out.rglob("*.json"))) - earlier
        lines.seek(0)
        run.lines = [{**json.loads(line), "folder": ""} for line in lines]
    return run


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files in a folder by their paths in it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def write_inputs(folder: Path, count: int, size: int) -> None:
    """Write a model and rendered rooms, one of them damaged."""
    (folder / "photos").mkdir()
    for i, sample in enumerate(Rooms(split="test", count=count, size=size)):
        pixels = sample.image.permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / "photos" / f"{i:04}.png")
    damaged = folder / "photos" / f"{count // 3:04}.png"
    damaged.write_bytes(damaged.read_bytes()[:300])
    diffsight.save(tiny(), folder / "model")


def main() -> int:
    """Measure all runs and print a table; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200, help="number of images")
    parser.add_argument("--size", type=int, default=512, help="height and width in pixels")
    parser.add_argument("--write", action="store_true", help="write the block of docs/cluster.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    count = options.count
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_inputs(folder, count, options.size)
        runs = {"one process": predict(folder, folder / "one")}
        runs["two workers"] = predict(folder, folder / "two", *RAY)
        out = folder / "killed"
        killed = predict(folder, out, *RAY, kill_worker=count // 4, kill_driver=count // 2)
        time.sleep(5)  # its workers end too
        before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
        runs["killed, until then"] = killed
        runs["started again"] = predict(folder, out, *RAY)
        kept = sum(path.stat().st_mtime_ns == time_ns for path, time_ns in before.items())
        wanted = files_of(folder / "one")
        checks = {
            "files of two workers are those of one process": files_of(folder / "two") == wanted,
            "files after the restart too": files_of(out) == wanted,
            "lines of two workers are those of one process": (
                runs["two workers"].lines == runs["one process"].lines
            ),
            "lines after the restart too": runs["started again"].lines == runs["one process"].lines,
            f"the {len(before)} results from before the restart are kept": kept == len(before),
        }
    text = report(runs, checks, options.size)
    say(text + "\n")
    if options.write:
        write_block(PAGE, "cluster", text)
    return 0 if all(checks.values()) else 1


def report(runs: Mapping[str, Run], checks: Mapping[str, bool], size: int) -> str:
    """Return the table of the runs, and what was compared."""
    rows = []
    for name, run in runs.items():
        rate = run.images / (run.seconds - run.first_s)
        memory = (
            " / ".join(f"{part // MEGABYTE}" if part else "" for part in one).strip(" /")
            for one in (run.driver, run.worker)
        )
        numbers = (f"{run.seconds:.0f}", f"{run.first_s:.0f}", f"{run.images}", f"{rate:.2f}")
        rows.append([name, *numbers, *memory])
    head = ["run", "seconds", "to the first result", "images", "images/s", "command, MB"]
    head.append("largest worker, MB")
    count = runs["one process"].images + 1
    text = paragraph(
        f"{count} rendered rooms of {size} px, one of them damaged, with a small random model on "
        f"{os.cpu_count()} processors; every process has one thread. In the last two rows a worker "
        "was killed, and then the command; the workers finished the images that they had, and the "
        "same command continued. Memory is the peak in the first and in the second half of the run."
    )
    verdicts = [f"- {name}: {'yes' if is_equal else 'NO'}" for name, is_equal in checks.items()]
    parts = (text, table(head, rows), "\n".join(verdicts), "`python benchmarks/cluster.py --write`")
    return "\n\n".join(parts)


if __name__ == "__main__":
    raise SystemExit(main())
