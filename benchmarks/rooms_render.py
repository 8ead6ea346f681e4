"""Measure how fast rooms are rendered, by image size.

    python benchmarks/rooms_render.py [--seconds 10] [--workers 2]

For each size, ``--workers`` processes render scenes: first with depth only, then with all labels,
people and sentences. The columns are:

* images per second of wall-clock time,
* images per second of processor time, summed over the processes. This is the speed on free cores;
  it hardly depends on other work on the machine,
* pixels per second of processor time, relative to 128 x 128.

The exit status is 1 if fewer than 10 images per second are rendered with all labels at 128 x 128.
"""

import argparse
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from diffsight.rooms import LABELS, Rooms, render_scene

SIZES = (128, 256, 512)
REQUIRED_IMAGES_PER_S = 10.0


def render_for(labels: str, size: int, start: int, seconds: float) -> tuple[float, float]:
    """Return the images per second of wall-clock time and of this process's processor time.

    Args:
        labels: ``depth`` or ``all``.
        size: side of the images in pixels.
        start: index of the first scene.
        seconds: how long to render, in seconds of wall-clock time.
    """
    data = Rooms("train", start + 100_000, size)
    clock, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - clock < seconds:
        if labels == "depth":
            data[start + count]
        else:
            render_scene(start + count, size=size, labels=LABELS)
        count += 1
    return count / (time.perf_counter() - clock), count / (time.process_time() - cpu)


def main() -> int:
    """Measure all sizes and print them; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="time for each size and set of labels"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that render")
    args = parser.parse_args()
    line = "{:>6}{:>8}{:>12}{:>12}{:>12}\n"
    sys.stdout.write(f"{args.workers} processes\n")
    sys.stdout.write(line.format("size", "labels", "wall clock", "free cores", "pixels/s"))
    rates: dict[tuple[str, int], float] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.workers, mp_context=context) as pool:
        for future in [pool.submit(render_for, "all", 64, 0, 2.0) for _ in range(args.workers)]:
            future.result()
        for labels in ("depth", "all"):
            for size in SIZES:
                runs = [
                    pool.submit(render_for, labels, size, 1000 * i, args.seconds)
                    for i in range(args.workers)
                ]
                clock, cpu = (
                    sum(column) for column in zip(*(r.result() for r in runs), strict=True)
                )
                rates[labels, size] = cpu
                scaling = cpu * size**2 / (rates[labels, 128] * 128**2)
                shown = (f"{clock:.1f}/s", f"{cpu:.1f}/s", f"{scaling:.2f} x")
                sys.stdout.write(line.format(size, labels, *shown))
    ratio = rates["all", 128] / REQUIRED_IMAGES_PER_S
    sys.stdout.write(f"all labels at 128 x 128: {ratio:.2f} x the required 10 images/s\n")
    return 0 if ratio >= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
