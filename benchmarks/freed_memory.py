"""Measure how much time keeping freed memory and a fused AdamW save in a training step on a CPU.

The model of ``rooms/vpd_depth`` is trained on random pictures. Every form runs in a process of its
own. The forms take turns, and ratios are those of the same round.

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

# by name: whether freed memory is kept, and whether AdamW is fused
FORMS = {"plain": (False, False), "memory": (True, False), "memory and fused": (True, True)}


def measure(form: str, steps: int, threads: int) -> float:
    """Return the median seconds of a training step of one form."""
    keeps_memory, is_fused = FORMS[form]
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
    """Measure all forms and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="runs of every form")
    parser.add_argument("--steps", type=int, default=20, help="timed training steps of a run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        sys.stdout.write(str(measure(args.child, args.steps, args.threads)))
        return
    rounds = []
    for _ in range(args.rounds):
        times = {}
        for form in FORMS:
            command = [sys.executable, __file__, *sys.argv[1:], "--child", form]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            times[form] = float(done.stdout)
        rounds.append(times)
    for form in FORMS:
        seconds = statistics.median(times[form] for times in rounds)
        ratio = statistics.median(times[form] / times["plain"] for times in rounds)
        sys.stdout.write(f"{form:17} {seconds:.3f} s a step ({ratio:.2f} x plain)\n")


if __name__ == "__main__":
    main()
