"""Measure time and memory of three variants of transposed attention, forward and backward.

Memory is the peak resident size of a process that runs only one variant, minus that of a process
that only makes the inputs. To measure times, the variants take turns in one process. The script
also fits how the memory of the fused variant ("sdpa") grows with the number of pixels, as an
exponent, from 4,096 to 16,384 pixels.

    python benchmarks/transposed_attention.py [--rounds 3] [--threads 2]
"""

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time

import torch

from diffsight.ops.transposed_attention import Implementation, transposed_attention

PIXELS, HEADS, WIDTH, MAPS = 4096, 5, 64, 40
GROWTH = (4096, 8192, 16384)
VARIANTS: tuple[Implementation, ...] = ("dense", "chunk", "sdpa")


def step(variant: Implementation | None, pixels: int) -> None:
    """Run a variant forward and backward; None only makes the inputs and their gradients."""
    torch.manual_seed(0)
    shape = (1, HEADS, pixels, WIDTH)
    query, key = (torch.randn(shape, requires_grad=True) for _ in range(2))
    maps = torch.rand(1, pixels, MAPS, requires_grad=True)
    if variant is None:
        for x in (query, key, maps):
            x.grad = torch.ones_like(x)
        return
    transposed_attention(query, key, maps, implementation=variant).square().sum().backward()


def peak_mib(variant: Implementation | None, pixels: int, threads: int) -> float:
    """Return the peak memory in MiB of a process that runs only this variant."""
    command = [sys.executable, __file__, "--child", json.dumps([variant, pixels, threads])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout) / 1024


def seconds(variant: Implementation) -> float:
    """Return the seconds of one forward and backward pass."""
    begin = time.perf_counter()
    step(variant, PIXELS)
    return time.perf_counter() - begin


def main() -> None:
    """Measure all variants and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of every variant")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        variant, pixels, threads = json.loads(args.child)
        torch.set_num_threads(threads)
        step(variant, pixels)
        sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
        return
    torch.set_num_threads(args.threads)
    # before this process grows, because the peak of a child process includes its parent's size
    inputs_only = {pixels: peak_mib(None, pixels, args.threads) for pixels in GROWTH}
    grown = {
        variant: peak_mib(variant, PIXELS, args.threads) - inputs_only[PIXELS]
        for variant in VARIANTS
    }
    mib = [peak_mib("sdpa", pixels, args.threads) - inputs_only[pixels] for pixels in GROWTH]
    rounds = [{v: seconds(v) for v in VARIANTS} for _ in range(args.rounds + 1)][1:]
    out = sys.stdout.write
    out(f"{PIXELS} pixels, {HEADS} heads of {WIDTH}, {MAPS} maps, {args.threads} threads, fp32\n")
    for variant in VARIANTS:
        ratio = statistics.median(times[variant] / times["dense"] for times in rounds)
        median = statistics.median(times[variant] for times in rounds)
        fraction = grown[variant] / grown["dense"]
        out(f"{variant:6} {median:6.2f} s ({ratio:.2f} x dense)")
        out(f"  {grown[variant]:7.0f} MiB ({fraction:.3f} x dense)\n")
    logs = [(math.log(p), math.log(m)) for p, m in zip(GROWTH, mib, strict=True)]
    centre = statistics.mean(x for x, _ in logs), statistics.mean(y for _, y in logs)
    slope = sum((x - centre[0]) * (y - centre[1]) for x, y in logs) / sum(
        (x - centre[0]) ** 2 for x, _ in logs
    )
    sizes = ", ".join(f"{p}: {m:.0f} MiB" for p, m in zip(GROWTH, mib, strict=True))
    out(f"sdpa by pixels: {sizes}; exponent {slope:.2f}\n")


if __name__ == "__main__":
    main()
