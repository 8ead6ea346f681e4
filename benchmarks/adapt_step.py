"""Measure a training step of FewShot on a full-size Stable Diffusion, with two attention variants.

"sdpa", the default, computes the transposed attention with two fused attentions. "dense" builds the
whole attention matrix. The model has random weights, 50 concepts and a codebook of 10 tables; it is
trained on one image of 512 x 512 px in fp32. Each variant runs in its own process: one step to warm
up, then the timed steps. Memory is the peak of the process, including the weights.

    python benchmarks/adapt_step.py [--architecture sd15] [--size 512] [--steps 2] [--threads 2]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from diffsight.backbones import StableDiffusion, concept_maps
from diffsight.codecs import ScalarBins
from diffsight.heads.codebook import Codebook
from diffsight.methods import FewShot
from diffsight.methods.few_shot import FewShotEncoded
from diffsight.model import DenseModel
from diffsight.ops.memory import keep_freed_memory
from diffsight.ops.transposed_attention import transposed_attention
from diffsight.outputs import OutputSpec
from diffsight.tasks import Values
from diffsight.training.step import TrainingStep
from diffsight.types import Draws, Inputs, Target

CONCEPTS, TABLES, FEATURES = 50, 10, 768


def build(architecture: str | Mapping[str, Mapping[str, Any]]) -> DenseModel:
    """Return a depth model with random weights; the slow default initialisation is skipped."""
    with torch.device("meta"):
        backbone = StableDiffusion(architecture, weights=None, trainable=())
    backbone.to_empty(device="cpu")
    for name, parameter in backbone.named_parameters():
        if "norm" in name and name.endswith("weight"):
            parameter.data.fill_(1.0)
        else:
            parameter.data.normal_(std=0.02)
    edges = torch.linspace(0, 10, 2 * CONCEPTS + 1)
    codec = ScalarBins.of(edges[::2].contiguous(), edges[1::2].contiguous())
    codec.label_mean, codec.label_std = torch.zeros(1), torch.ones(1)

    def few_shot(*, output: OutputSpec) -> FewShot:
        method = FewShot(output=output, backbone=backbone)
        # image features are given as random numbers, so no CLIP tower is needed
        method.codebook = Codebook(codec, size=TABLES, features=FEATURES)
        return method

    return DenseModel(task=Values(unit="m").with_codec(codec, bins=CONCEPTS), method=few_shot)


def training_step(model: DenseModel, size: int, device: torch.device | str = "cpu") -> TrainingStep:
    """Return a training step on one random image; ``losses`` takes the ``Draws`` of the step.

    Args:
        model: model from ``build``.
        size: side of the image in pixels.
        device: device of the model.
    """
    grid = size // 8
    encoded = FewShotEncoded(torch.randn(1, 4, grid, grid), torch.randn(1, FEATURES)).to(device)
    inputs = Inputs(torch.rand(1, 3, size, size)).to(device)
    valid = torch.ones(1, size, size, dtype=torch.bool)
    target = Target(10 * torch.rand(1, 1, size, size), valid).to(device)
    settings = FewShot.few_shot_defaults()
    return TrainingStep.of_settings(
        model.train(),
        lambda draws: model.losses(inputs, target, encoded=encoded, draws=draws),
        settings,
        settings.max_steps,
    )


def measure(variant: str, architecture: str, size: int, steps: int, threads: int) -> None:
    """Write seconds per step, peak memory in GiB and the last loss to stdout, as a JSON list."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    torch.manual_seed(0)
    if variant == "dense":
        dense = partial(transposed_attention, implementation="dense")
        concept_maps.transposed_attention = dense  # type: ignore[assignment]
    step = training_step(build(architecture), size)
    optimiser = step.optimiser()
    times, losses = [], {}
    for number in range(steps + 1):
        begin = time.perf_counter()
        step.set_rates(optimiser, number)
        optimiser.zero_grad()
        losses = step.losses(Draws((number,)))
        losses["loss"].backward()
        optimiser.step()
        times.append(time.perf_counter() - begin)
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sys.stdout.write(json.dumps([statistics.median(times[1:]), gib, losses["loss"].item()]))


def main() -> None:
    """Measure both variants and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="sd15", choices=("sd15", "sd21"))
    parser.add_argument("--size", type=int, default=512, help="side of the image in pixels")
    parser.add_argument("--steps", type=int, default=2, help="timed steps")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        measure(args.child, args.architecture, args.size, args.steps, args.threads)
        return
    results = {}
    for variant in ("sdpa", "dense"):
        command = [sys.executable, __file__, *sys.argv[1:], "--child", variant]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results[variant] = json.loads(done.stdout)
    dense_seconds, dense_gib, _ = results["dense"]
    sys.stdout.write(f"{args.architecture}, {args.size} x {args.size}, {CONCEPTS} concepts, fp32\n")
    for variant, (seconds, gib, loss) in results.items():
        sys.stdout.write(
            f"{variant:5} {seconds:6.1f} s per step ({seconds / dense_seconds:.2f} x dense), "
            f"{gib:5.1f} GiB ({gib / dense_gib:.2f} x dense), loss {loss:.5f}\n"
        )


if __name__ == "__main__":
    main()
