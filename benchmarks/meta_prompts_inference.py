"""Measure time and memory of the passes of Meta Prompts on a CPU, compared with VPD depth.

The models have the shape of Stable Diffusion 1.5 and random weights, and predict one image of
480 x 480 px in fp32. The measured parts take turns in one process. Ratios are computed within a
round; their medians over the rounds are printed:

* seconds of three passes, from the image to the features of the last pass, compared with one VAE
  encoder and three UNet trunks,
* seconds per multiply-add of the whole model, including neck and head, relative to VPD depth,
* peak memory of one and of three passes, each in its own process.

    python benchmarks/meta_prompts_inference.py [--rounds 5] [--threads 2] [--write]
"""

import argparse
import json
import statistics
import subprocess
import sys
from functools import partial
from typing import Any

import torch
from full_size import build_ours, build_random, build_reference, peak_of, seconds_of
from reporting import RESULTS, say, table, write_block

from diffsight.inference.cost import estimate_cost
from diffsight.ops.memory import keep_freed_memory
from diffsight.types import Inputs

RECIPE, VPD = "meta_prompts/depth_nyu", "vpd/depth_nyu"
SIDE = 480
PASSES = 3


def models() -> tuple[Any, Any]:
    """Return the methods of Meta Prompts and VPD depth, which share their backbone weights."""
    vae, unet = build_reference()
    return build_ours(RECIPE, vae, unet), build_ours(VPD, vae, unet)


def features(method: Any, image: torch.Tensor, passes: int) -> object:
    """Run the given number of passes, and return the features of the last one."""
    method.passes = passes
    inputs = Inputs(image)
    return method.refine(inputs, method._latent(inputs))


def multiply_adds(recipe: str) -> int:
    """Return the multiply-adds of the whole model of a recipe, for one image."""
    with torch.inference_mode(mode=False):
        return estimate_cost(build_random(recipe, "meta"), SIDE, SIDE).multiply_adds


@torch.inference_mode()
def measure(rounds: int) -> str:
    """Measure the times and return their table."""
    ours, vpd = models()
    keep_freed_memory()
    image = torch.rand(1, 3, SIDE, SIDE)
    inputs = Inputs(image)
    backbone, step = ours.backbone, torch.tensor([1])
    sized = ours._resize_or_pad(image)
    latent, context = backbone.encode(sized), ours.prompts[0](inputs)
    embedding = ours._embedding(latent, 0)
    seconds = seconds_of(
        {
            "VAE": lambda: backbone.encode(sized),
            "UNet trunk": lambda: backbone.features(latent, context, step, embedding=embedding),
            "three passes, to the features": partial(features, ours, image, PASSES),
            "three passes, whole model": lambda: ours(inputs),
            "VPD depth, whole model": lambda: vpd(inputs),
        },
        rounds,
    )
    vae, trunk, refined, whole, vpd_whole = seconds.values()
    trunks = [(c - a) / b for a, b, c in zip(vae, trunk, refined, strict=True)]
    counts = multiply_adds(RECIPE), multiply_adds(VPD)
    relative = [(a / counts[0]) / (b / counts[1]) for a, b in zip(whole, vpd_whole, strict=True)]
    body = [[name, f"{statistics.median(values):.2f}"] for name, values in seconds.items()]
    body += [
        [
            "three passes without the VAE, relative to the UNet trunk",
            f"{statistics.median(trunks):.3f}",
        ],
        ["seconds per multiply-add, relative to VPD depth", f"{statistics.median(relative):.3f}"],
    ]
    return table(("480 x 480 px", "seconds, or ratio"), body)


@torch.inference_mode()
def peak_of_passes(passes: int) -> float:
    """Return the peak memory in MiB of this process during the given number of passes."""
    ours, _ = models()
    return peak_of(partial(features, ours, torch.rand(1, 3, SIDE, SIDE), passes))


def main() -> None:
    """Measure times, then memory, and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="number of timed runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--write", action="store_true", help="write the table to docs/results.md")
    parser.add_argument("--passes", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.passes:
        sys.stdout.write(json.dumps(peak_of_passes(args.passes)))
        return
    text = measure(args.rounds)
    command = [sys.executable, __file__, "--threads", str(args.threads), "--passes"]
    peaks = [
        json.loads(subprocess.run([*command, str(n)], stdout=subprocess.PIPE, check=True).stdout)
        for n in (1, PASSES)
    ]
    text += (
        f"\n\nPeak memory: {peaks[0]:.0f} MiB with one pass, {peaks[1]:.0f} MiB with three "
        f"({peaks[1] / peaks[0]:.3f} times)."
    )
    say(text + "\n")
    if args.write:
        call = f"`python benchmarks/meta_prompts_inference.py --rounds {args.rounds} --write`"
        write_block(RESULTS, "meta_prompts_inference", f"{call}\n\n{text}")


if __name__ == "__main__":
    main()
