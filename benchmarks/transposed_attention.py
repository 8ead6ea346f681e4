"""Measure time and memory of the three forms of transposed attention, forward and backward.

Memory is the peak resident size of a process that runs only one form, minus that of a process that
only makes the inputs. For times, the forms take turns in one process. The exponent of the growth in
memory is fitted to the fused form ("sdpa") between 4,096 and 16,384 pixels.

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
FORMS: tuple[Implementation, ...] = ("dense", "chunk", "sdpa")


def step(form: Implementation | None, pixels: int) -> None:
    """Run a form forward and backward; None only makes the inputs and their gradients."""
    torch.manual_seed(0)
    shape = (1, HEADS, pixels, WIDTH)
    query, key = (torch.randn(shape, requires_grad=True) for _ in range(2))
    maps = torch.rand(1, pixels, MAPS, requires_grad=True)
    if form is None:
        for x in (query, key, maps):
            x.grad = torch.ones_like(x)
        return
    transposed_attention(query, key, maps, implementation=form).square().sum().backward()


def peak_mib(form: Implementation | None, pixels: int, threads: int) -> float:
    """Return the peak memory in MiB of a process that runs only this form."""
    command = [sys.executable, __file__, "--child", json.dumps([form, pixels, threads])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout) / 1024


def seconds(form: Implementation) -> float:
    """Return the seconds of one forward and backward pass."""
    begin = time.perf_counter()
    step(form, PIXELS)
    return time.perf_counter() - begin


def main() -> None:
    """Measure all forms and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of every form")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        form, pixels, threads = json.loads(args.child)
        torch.set_num_threads(threads)
        step(form, pixels)
        sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
        return
    torch.set_num_threads(args.threads)
    # first, while this process is small: the peak of a child includes its parent's size
    inputs_only = {pixels: peak_mib(None, pixels, args.threads) for pixels in GROWTH}
    grown = {form: peak_mib(form, PIXELS, args.threads) - inputs_only[PIXELS] for form in FORMS}
    mib = [peak_mib("sdpa", pixels, args.threads) - inputs_only[pixels] for pixels in GROWTH]
    rounds = [{form: seconds(form) for form in FORMS} for _ in range(args.rounds + 1)][1:]
    out = sys.stdout.write
    out(f"{PIXELS} pixels, {HEADS} heads of {WIDTH}, {MAPS} maps, {args.threads} threads, fp32\n")
    for form in FORMS:
        ratio = statistics.median(times[form] / times["dense"] for times in rounds)
        median = statistics.median(times[form] for times in rounds)
        fraction = grown[form] / grown["dense"]
        out(f"{form:6} {median:6.2f} s ({ratio:.2f} x dense)")
        out(f"  {grown[form]:7.0f} MiB ({fraction:.3f} x dense)\n")
    logs = [(math.log(p), math.log(m)) for p, m in zip(GROWTH, mib, strict=True)]
    centre = statistics.mean(x for x, _ in logs), statistics.mean(y for _, y in logs)
    slope = sum((x - centre[0]) * (y - centre[1]) for x, y in logs) / sum(
        (x - centre[0]) ** 2 for x, _ in logs
    )
    sizes = ", ".join(f"{p}: {m:.0f} MiB" for p, m in zip(GROWTH, mib, strict=True))
    out(f"sdpa by pixels: {sizes}; exponent {slope:.2f}\n")


if __name__ == "__main__":
    main()
