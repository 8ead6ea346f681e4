"""Measure the start-up time of the command line and of the import, relative to bare Python.

    python benchmarks/cli_startup.py [--repeats 20]

Every round runs all commands one after another, so that other work on the machine slows all of
them. The ratio is the median over the rounds of (time of the command) / (time of ``python -c
pass``). The exit status is 1 if ``diffsight --help`` takes longer than half a second.
"""

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import diffsight": ["-c", "import diffsight"],
    "diffsight --help": ["-m", "diffsight", "--help"],
    "diffsight predict --help": ["-m", "diffsight", "predict", "--help"],
    "diffsight --version": ["-m", "diffsight", "--version"],
}
LIMIT_S = 0.5


def measure(arguments: list[str]) -> float:
    """Return the seconds that the Python interpreter takes with these arguments."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> int:
    """Measure all commands and print them; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20, help="number of rounds")
    repeats = parser.parse_args().repeats
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeats):
        for name, arguments in COMMANDS.items():
            seconds[name].append(measure(arguments))
    bare = seconds["python -c pass"]
    sys.stdout.write(f"{'':<26}{'ratio':>8}{'median s':>10}\n")
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values, bare, strict=True))
        sys.stdout.write(f"{name:<26}{ratio:>8.2f}{statistics.median(values):>10.3f}\n")
    slow = statistics.median(seconds["diffsight --help"]) > LIMIT_S
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
