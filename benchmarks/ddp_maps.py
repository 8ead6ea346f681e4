"""Measure time, memory and multiply-adds of a full-size DDP model for bird's-eye-view maps.

The model of the recipe ddp/nuscenes_camera runs on a CPU in fp32 with random weights. It reads six
images of 256 x 704 px of a rendered street, has 118 depth bins and 200 x 200 map cells, and takes
three steps with an ensemble of five. The parts are timed in turns in one process, and the medians
are printed. Peak memory is measured in a separate process.

    python benchmarks/ddp_maps.py [--rounds 3] [--threads 2] [--write]
"""

import argparse
import json
import statistics
import subprocess
import sys
from functools import partial
from typing import Any

import torch
from full_size import build_random, peak_of, seconds_of
from reporting import RESULTS, say, table, write_block

from diffsight.inference.cost import estimate_cost
from diffsight.ops.memory import keep_freed_memory
from diffsight.streets import Streets
from diffsight.types import Draws, Inputs

RECIPE = "ddp/nuscenes_camera"
HW = (256, 704)


def street() -> Inputs:
    """Return the inputs of a rendered street with six cameras."""
    rig = Streets(image_hw=HW, lidar=False)[0].rig
    assert rig is not None
    return Inputs(torch.zeros(1, 3, *HW), rig=rig.in_floats())


def whole(model: Any, inputs: Inputs) -> object:
    """Run the whole model with the steps and ensemble of the recipe."""
    return model(inputs, draws=Draws((0,)))


@torch.inference_mode()
def measure(rounds: int) -> str:
    """Return the table of times."""
    model, inputs = build_random(RECIPE), street()
    keep_freed_memory()
    method: Any = model.method
    backbone, rig = method.backbone, inputs.rig
    assert rig is not None
    levels = backbone.images.levels(rig.images.flatten(0, 1))
    image_features = backbone.pyramid(levels)[None]
    lifted = backbone.lift(image_features, rig)
    features = backbone.join(backbone.encoder(lifted))
    runs = {
        "image encoder": lambda: backbone.pyramid(backbone.images.levels(rig.images.flatten(0, 1))),
        "view transform": lambda: backbone.lift(image_features, rig),
        "network on the map": lambda: backbone.join(backbone.encoder(lifted)),
        "three steps, ensemble of five": lambda: method.sample(features, Draws((0,))),
        "whole": partial(whole, model, inputs),
    }
    seconds = seconds_of(runs, rounds)
    body = [[name, f"{statistics.median(values):.2f}"] for name, values in seconds.items()]
    return table(("six images of 256 x 704 px, Swin-T", "seconds"), body)


@torch.inference_mode()
def peak() -> float:
    """Return the peak memory of a pass of the whole model in this process, in MiB."""
    return peak_of(partial(whole, build_random(RECIPE), street()))


def main() -> None:
    """Measure times, then memory, and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="of timed runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--write", action="store_true", help="write the table to docs/results.md")
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        sys.stdout.write(json.dumps(peak()))
        return
    text = measure(args.rounds)
    command = [sys.executable, __file__, "--threads", str(args.threads), "--memory"]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    operations = estimate_cost(build_random(RECIPE, "meta"), *HW).multiply_adds / 1e9
    text += f"\n\nPeak memory {json.loads(output):.0f} MiB; {operations:.0f} GMAC (10^9)."
    say(text + "\n")
    if args.write:
        call = f"`python benchmarks/ddp_maps.py --rounds {args.rounds} --write`"
        write_block(RESULTS, "ddp_maps", f"{call}\n\n{text}")


if __name__ == "__main__":
    main()
