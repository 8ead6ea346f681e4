"""Measure how much training time on a CPU is saved by keeping freed memory and by a fused AdamW.

The model of ``rooms/vpd_depth`` is trained on random images. Each variant runs in its own process.
The variants take turns, and ratios are computed within a round.

    python benchmarks/freed_memory.py [--rounds 3] [--steps 20] [--threads 2]
"""

import argparse
import statistics
import subprocess
import sys
import time

import torch

from diffsight.cli.recipe import read
from diffsight.hub import build
from diffsight.ops.memory import keep_freed_memory
from diffsight.types import Inputs

# variants by name: whether freed memory is kept, and whether AdamW is fused
VARIANTS = {"plain": (False, False), "memory": (True, False), "memory and fused": (True, True)}


def measure(variant: str, steps: int, threads: int) -> float:
    """Return the median seconds of a training step of one variant."""
    keeps_memory, is_fused = VARIANTS[variant]
    torch.set_num_threads(threads)
    if keeps_memory:
        keep_freed_memory()
    recipe = read("rooms/vpd_depth")
    model = build(recipe).train()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-4, fused=is_fused)
    image, times = torch.rand(recipe["batch_size"], 3, 64, 64), []
    for _ in range(steps + 2):
        begin = time.perf_counter()
        model(Inputs(image)).stack.square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[2:])


def main() -> None:
    """Measure all variants and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="runs of every variant")
    parser.add_argument("--steps", type=int, default=20, help="timed training steps per run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        sys.stdout.write(str(measure(args.child, args.steps, args.threads)))
        return
    rounds = []
    for _ in range(args.rounds):
        times = {}
        for variant in VARIANTS:
            command = [sys.executable, __file__, *sys.argv[1:], "--child", variant]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            times[variant] = float(done.stdout)
        rounds.append(times)
    for variant in VARIANTS:
        seconds = statistics.median(times[variant] for times in rounds)
        ratio = statistics.median(times[variant] / times["plain"] for times in rounds)
        sys.stdout.write(f"{variant:17} {seconds:.3f} s per step ({ratio:.2f} x plain)\n")


if __name__ == "__main__":
    main()
