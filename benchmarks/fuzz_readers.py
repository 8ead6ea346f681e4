"""Read damaged files with every reader, which must succeed or raise a one-line error.

Valid files are written once by diffsight. Every case is a mutation of one of these files. It is
read in a forked process, which may use 2 GB more address space than its parent, and 10 seconds. A
case passes if the reader succeeds, or raises an InputError with a one-line message. All other cases
are printed with the reader, the mutation, the number of the case and the end of the traceback.

    python benchmarks/fuzz_readers.py --count 5000
    python benchmarks/fuzz_readers.py --only "text table" --count 300
    python benchmarks/fuzz_readers.py --only "text table" --case 17  # print its traceback
"""

import argparse
import collections
import dataclasses
import logging
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import fuzz_data
import fuzz_models
import fuzz_more
import torch
from fuzz_data import Reader
from fuzz_mutations import mutate

from diffsight.errors import InputError

MEMORY = 2 * 2**30
SECONDS = 10  # seconds of processor time; the limit of wall-clock time is six times as long
FRAMES = 4


@dataclasses.dataclass
class Case:
    """One mutated file that a process is reading.

    Attributes:
        reader: reader of the file.
        number: number of the case. Seed, reader name and number determine the mutation.
        mutation: name of the mutation.
        pid: id of the process that reads.
        output: file to which the process writes a description of a failure.
        started: start time on the monotonic clock, in seconds.
        folder: copy of the valid files, in which one is mutated.
    """

    reader: Reader
    number: int
    mutation: str
    pid: int
    output: Path
    started: float
    folder: Path


@dataclasses.dataclass
class Tally:
    """Counts and costs of the cases of one reader.

    Attributes:
        cases: number of finished cases.
        refused: cases that raised an InputError with a one-line message.
        failures: cases that ended in any other error or exceeded a limit.
        seconds: processor time of all cases, in seconds.
        slowest: processor time of the slowest case, in seconds.
        largest: memory of the largest case beyond that of the parent, in bytes.
    """

    cases: int = 0
    refused: int = 0
    failures: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    largest: int = 0


def prepare(root: Path) -> list[Reader]:
    """Write the valid files, and return their readers."""
    groups = (*fuzz_data.GROUPS, *fuzz_models.GROUPS, *fuzz_more.GROUPS)
    return [reader for group in groups for reader in group(root / group.__name__)]


def check(root: Path, reader: Reader) -> None:
    """Check that a reader accepts its valid file.

    The valid files of converters and manifests are incomplete, so their readers may refuse them.
    """
    folder = root / ".valid"
    try:
        reader.read(_copy(root, reader, folder))
    except InputError as error:
        if "convert" not in reader.name and "manifest" not in reader.name:
            raise AssertionError(f"{reader.name}: refuses the valid file: {error}") from None
    finally:
        shutil.rmtree(folder)


def _copy(root: Path, reader: Reader, target: Path) -> Path:
    """Fill ``target`` with links to the valid files; return the path of the reader's file in it."""
    top = Path(reader.path).parts[0]
    for file in (root / top).rglob("*"):
        link = target / file.relative_to(root)
        if file.is_dir():
            link.mkdir(parents=True, exist_ok=True)
        else:
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    return target / reader.path


def plan(readers: Sequence[Reader], count: int) -> list[tuple[Reader, int]]:
    """Return pairs of reader and case number; a slow reader gets fewer cases, at least one."""
    total = sum(1 / reader.cost for reader in readers)
    numbers = [max(1, round(count / reader.cost / total)) for reader in readers]
    numbers[0] = max(1, numbers[0] + count - sum(numbers))
    return [(r, i) for r, number in zip(readers, numbers, strict=True) for i in range(number)]


def begin(root: Path, reader: Reader, number: int, seed: int, others: Sequence[Path]) -> Case:
    """Start a case in a process of its own."""
    folder = root / ".cases" / f"{os.getpid()}-{time.monotonic_ns()}"
    output = folder.with_suffix(".txt")
    output.parent.mkdir(exist_ok=True)
    path, mutation = _mutated(root, reader, number, seed, others, folder)
    started = time.monotonic()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os._exit(_read(reader, path, output))
    return Case(reader, number, mutation, pid, output, started, folder)


def _mutated(
    root: Path, reader: Reader, number: int, seed: int, others: Sequence[Path], folder: Path
) -> tuple[Path, str]:
    """Write the mutated file into a copy of the valid files; return its path and the mutation."""
    rng = random.Random(f"{seed} {reader.name} {number}")
    other = rng.choice(others).read_bytes()
    mutation, data = mutate((root / reader.path).read_bytes(), other, reader.kind, rng)
    path = _copy(root, reader, folder)
    path.unlink()
    path.write_bytes(data)
    return path, mutation


def _read(reader: Reader, path: Path, output: Path) -> int:
    """Read a file in a forked process; return 0 for success, 1 if refused, 2 for a failure."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        reader.read(path)
    except InputError as error:
        if "\n" not in str(error):
            return 1
        output.write_text(f"a message of several lines: {str(error)[:300]!r}")
        return 2
    except BaseException as error:  # an error of any other type is a failure
        frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
        lines = [f"  {f.filename.rpartition('/src/')[2]}:{f.lineno} {f.name}" for f in frames]
        text = str(error)[:300]
        output.write_text("\n".join([f"{type(error).__name__}: {text}", *lines]))
        return 2
    return 0


def finish(case: Case, tallies: dict[str, Tally], before: int) -> str | None:
    """Return a description of the failure of a case, "" if it passed, None while it runs.

    Args:
        case: case that may have finished.
        tallies: results by name of the reader, to which the case is added.
        before: bytes of memory that the process inherited from its parent.
    """
    pid, status, usage = os.wait4(case.pid, os.WNOHANG)
    if pid == 0 and time.monotonic() - case.started < 6 * SECONDS:
        return None
    if pid == 0:
        os.kill(case.pid, signal.SIGKILL)
        _, status, usage = os.wait4(case.pid, 0)
        problem = f"more than {6 * SECONDS} s"
    elif os.WIFSIGNALED(status):
        problem = f"killed by signal {os.WTERMSIG(status)}"
    elif os.WEXITSTATUS(status) == 2:
        problem = case.output.read_text()
    else:
        problem = ""
    seconds = usage.ru_utime + usage.ru_stime
    if seconds > SECONDS:
        problem = problem or f"{seconds:.0f} s"
    grown = max(0, usage.ru_maxrss * 1024 - before)
    if grown > MEMORY:
        problem = problem or f"{grown / 2**30:.1f} GB of memory"
    tally = tallies[case.reader.name]
    tally.cases += 1
    tally.refused += os.WIFEXITED(status) and os.WEXITSTATUS(status) == 1
    tally.failures += bool(problem)
    tally.seconds += seconds
    tally.slowest, tally.largest = max(tally.slowest, seconds), max(tally.largest, grown)
    return problem


def fuzz(
    root: Path,
    cases: Sequence[tuple[Reader, int]],
    seed: int,
    others: Sequence[Path],
    jobs: int,
) -> dict[str, Tally]:
    """Run all cases and print those that fail."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    tallies: dict[str, Tally] = collections.defaultdict(Tally)
    waiting, running = collections.deque(cases), list[Case]()
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(begin(root, *waiting.popleft(), seed, others))
        for case in list(running):
            if (problem := finish(case, tallies, before)) is None:
                continue
            running.remove(case)
            if problem:
                sys.stdout.write(
                    f"\n{case.reader.name}, mutation {case.mutation}, case {case.number}, "
                    f"seed {seed}: {problem}\n"
                )
            shutil.rmtree(case.folder)
            case.output.unlink(missing_ok=True)
        time.sleep(0.001)
    return tallies


def summary(tallies: dict[str, Tally], seconds: float) -> str:
    """Return a table with a row for each reader, and a line of totals."""
    lines = [f"{'reader':<52} cases refused failures slowest, s  memory, MB"]
    for name, t in tallies.items():
        lines.append(
            f"{name:<52} {t.cases:5} {t.refused:7} {t.failures:8} {t.slowest:10.2f} "
            f"{t.largest / 2**20:11.0f}"
        )
    values = tallies.values()
    lines.append(
        f"{sum(t.cases for t in values)} cases of {len(tallies)} readers in {seconds:.0f} s: "
        f"{sum(t.refused for t in values)} refused in one line, "
        f"{sum(t.failures for t in values)} failures, slowest {max(t.slowest for t in values):.2f} "
        f"s, at most {max(t.largest for t in values) / 2**20:.0f} MB"
    )
    return "\n".join(lines)


def main() -> int:
    """Fuzz the readers; return the exit status, which is 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=2000, help="total number of cases")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations")
    parser.add_argument(
        "--only",
        default="",
        metavar="READER",
        help="readers whose name matches this regular expression",
    )
    parser.add_argument(
        "--case", type=int, help="run one case of one reader, and print its traceback"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    args = parser.parse_args()
    logging.disable()
    torch.set_num_threads(1)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "valid"
        root.mkdir()
        all_readers = prepare(root)
        others = sorted({root / reader.path for reader in all_readers})
        readers = [reader for reader in all_readers if re.search(args.only, reader.name)]
        if not readers:
            parser.error(f"--only {args.only}: no reader has a name that matches")
        if args.case is not None:
            return _show(root, readers[0], args.case, args.seed, others)
        for reader in readers:
            check(root, reader)
        tallies = fuzz(root, plan(readers, args.count), args.seed, others, args.jobs)
    sys.stdout.write(f"\n{summary(tallies, time.monotonic() - start)}\n")
    return int(any(tally.failures for tally in tallies.values()))


def _show(root: Path, reader: Reader, number: int, seed: int, others: Sequence[Path]) -> int:
    """Read the file of one case in this process, to show the traceback; keep the file."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    path, mutation = _mutated(root, reader, number, seed, others, folder)
    sys.stdout.write(f"{reader.name}, mutation {mutation}: {path}\n")
    reader.read(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
