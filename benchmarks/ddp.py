"""Measure time and memory of the denoising steps of DDP on a CPU, compared with VPD depth.

The model has a Swin-T with random weights and 150 classes, and predicts one image of 512 x 512 px
in fp32. The measured variants take turns in one process. Ratios are computed within a round; their
medians over the rounds are printed:

* seconds of 1, 2, 3, 5 and 10 steps, and of one additional step between these numbers,
* seconds per multiply-add of the whole model with three steps, relative to VPD depth at 480 px,
* seconds of the deformable attention of one layer, relative to its linear parts and a
  ``grid_sample`` of the same points,
* peak memory of two and of ten steps, each in its own process.

    python benchmarks/ddp.py [--rounds 5] [--threads 2] [--write]
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from functools import partial
from typing import Any

import torch
from full_size import build_ours, build_random, build_reference, peak_of, seconds_of
from meta_prompts_inference import multiply_adds
from reporting import RESULTS, say, table, write_block
from torch.nn import functional

from diffsight.heads.map_decoder import pixel_centres
from diffsight.inference.cost import estimate_cost
from diffsight.ops.memory import keep_freed_memory
from diffsight.types import Draws, Inputs

RECIPE, VPD = "ddp/ade20k_swin_t", "vpd/depth_nyu"
SIDE, VPD_SIDE = 512, 480
STEPS = (1, 2, 3, 5, 10)
DEFAULT_STEPS, FEW_STEPS, MANY_STEPS = 3, 2, 10


def sample(model: Any, inputs: Inputs, steps: int) -> object:
    """Run the whole model with this number of denoising steps."""
    return model(Inputs(inputs.image, steps=steps), draws=Draws((0,)))


@torch.inference_mode()
def attention_ratio(model: Any, rounds: int) -> tuple[float, float]:
    """Return the seconds of the deformable attention of a layer, and the ratio to its parts."""
    layer = model.method.decoder.layers[0].attention
    side = SIDE // 4
    tokens = torch.randn(1, side * side, model.method.decoder.width)
    positions = torch.randn(side * side, tokens.shape[2])
    maps = tokens.mT.unflatten(1, (layer.heads, -1)).unflatten(3, (side, side)).flatten(0, 1)
    offsets = layer.offsets(tokens + positions)[0].unflatten(1, (layer.heads, layer.points, 2))
    points = 2 * (pixel_centres((side, side))[:, None, None] + offsets / side) - 1
    points = points.transpose(0, 1).contiguous()

    def parts() -> object:
        query = tokens + positions
        linear = [module(query) for module in (layer.offsets, layer.weights)]
        linear += [module(tokens) for module in (layer.value, layer.output)]
        return linear, functional.grid_sample(maps, points, align_corners=False)

    runs = {"attention": partial(layer, tokens, positions, (side, side)), "parts": parts}
    seconds = seconds_of(runs, rounds)
    ratios = [a / b for a, b in zip(seconds["attention"], seconds["parts"], strict=True)]
    return statistics.median(seconds["attention"]), statistics.median(ratios)


@torch.inference_mode()
def measure(rounds: int) -> str:
    """Return the table of times."""
    model: Any = build_random(RECIPE)
    keep_freed_memory()
    inputs = Inputs(torch.rand(1, 3, SIDE, SIDE))
    vae, unet = build_reference()
    vpd, vpd_inputs = build_ours(VPD, vae, unet), Inputs(torch.rand(1, 3, VPD_SIDE, VPD_SIDE))
    names = {n: f"{n} step{'s' * (n > 1)}" for n in STEPS}
    runs = {names[n]: partial(sample, model, inputs, n) for n in STEPS}
    seconds = seconds_of({**runs, "VPD depth": lambda: vpd(vpd_inputs)}, rounds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    body = [[name, f"{value:.3f}"] for name, value in medians.items()]
    increments = {
        f"one more step, between {a} and {b}": statistics.median(
            (y - x) / (b - a) for x, y in zip(seconds[names[a]], seconds[names[b]], strict=True)
        )
        for a, b in itertools.pairwise(STEPS)
    }
    body += [[name, f"{value:.3f}"] for name, value in increments.items()]
    mean = statistics.mean(increments.values())
    deviation = max(abs(value / mean - 1) for value in increments.values())
    operations = (
        estimate_cost(build_random(RECIPE, "meta"), SIDE, SIDE).multiply_adds,
        multiply_adds(VPD),
    )
    pairs = zip(seconds[names[DEFAULT_STEPS]], seconds["VPD depth"], strict=True)
    relative = statistics.median((a / operations[0]) / (b / operations[1]) for a, b in pairs)
    attention, ratio = attention_ratio(model, rounds)
    body += [
        ["largest deviation of one more step from the mean of these", f"{deviation:.1%}"],
        ["seconds per multiply-add in three steps, relative to VPD depth", f"{relative:.3f}"],
        ["deformable attention of one layer", f"{attention:.3f}"],
        ["the same, relative to its linear parts and a `grid_sample`", f"{ratio:.3f}"],
    ]
    return table((f"{SIDE} x {SIDE} px, Swin-T", "seconds, or ratio"), body)


@torch.inference_mode()
def peak_of_steps(steps: int) -> float:
    """Return the peak memory in MiB of this process during the given number of steps."""
    model, inputs = build_random(RECIPE), Inputs(torch.rand(1, 3, SIDE, SIDE))
    return peak_of(partial(sample, model, inputs, steps))


def main() -> None:
    """Measure times, then memory, and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="of timed runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--write", action="store_true", help="write the table to docs/results.md")
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.steps:
        sys.stdout.write(json.dumps(peak_of_steps(args.steps)))
        return
    text = measure(args.rounds)
    command = [sys.executable, __file__, "--threads", str(args.threads), "--steps"]
    peaks = [
        json.loads(subprocess.run([*command, str(n)], stdout=subprocess.PIPE, check=True).stdout)
        for n in (FEW_STEPS, MANY_STEPS)
    ]
    text += (
        f"\n\nPeak memory: {peaks[0]:.0f} MiB with {FEW_STEPS} steps, {peaks[1]:.0f} MiB with "
        f"{MANY_STEPS} ({peaks[1] / peaks[0]:.3f} times)."
    )
    say(text + "\n")
    if args.write:
        call = f"`python benchmarks/ddp.py --rounds {args.rounds} --write`"
        write_block(RESULTS, "ddp", f"{call}\n\n{text}")


if __name__ == "__main__":
    main()
