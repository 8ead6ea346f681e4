"""A training step of FewShot's concepts on a full-size Stable Diffusion, beside its dense form.

Random weights, 512 x 512, batch 1, fp32; 50 concepts, a codebook of 10 tables. Every form runs in a
process of its own: one step to warm up, then the timed ones; memory is the process's peak,
weights included.

    python benchmarks/adapt_step.py [--architecture sd15] [--size 512] [--steps 2] [--threads 2]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from functools import partial

import torch

from diffsight.backbones import StableDiffusion, concept_maps
from diffsight.codecs import ScalarBins
from diffsight.heads import Codebook
from diffsight.methods import FewShot
from diffsight.methods.few_shot import CLIP, LATENT
from diffsight.ops.memory import keep_freed_memory
from diffsight.ops.transposed_attention import transposed_attention
from diffsight.tasks import Scalars
from diffsight.training.loop import RECIPES, optimiser_for
from diffsight.types import Draws, Inputs, Target

CONCEPTS, TABLES, FEATURES = 50, 10, 768


def build(architecture: str) -> tuple[FewShot, Scalars]:
    """Method and task; random weights without the time of their usual start."""
    with torch.device("meta"):
        backbone = StableDiffusion(architecture, weights=None, trainable=())
    backbone.to_empty(device="cpu")
    for name, parameter in backbone.named_parameters():
        if "norm" in name and name.endswith("weight"):
            parameter.data.fill_(1.0)
        else:
            parameter.data.normal_(std=0.02)
    edges = torch.linspace(0, 10, 2 * CONCEPTS + 1)
    codec = ScalarBins(edges[::2], edges[1::2])
    codebook = Codebook(codec.centres, torch.ones(1), size=1)
    few_shot = FewShot(num_outputs=CONCEPTS, backbone=backbone, codebook=codebook)
    # the image's features are computed once: what mixes the tables needs no tower here
    few_shot.codebook = Codebook(codec.centres, torch.ones(1), size=TABLES, features=FEATURES)
    return few_shot, Scalars(codec, spread=torch.ones(1), unit="m")


def child(form: str, architecture: str, size: int, steps: int, threads: int) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    torch.manual_seed(0)
    if form == "dense":
        dense = partial(transposed_attention, implementation="dense")
        concept_maps.transposed_attention = dense  # type: ignore[assignment]
    method, task = build(architecture)
    method.train()
    grid = size // 8
    cached = {LATENT: torch.randn(1, 4, grid, grid), CLIP: torch.randn(1, FEATURES)}
    inputs = Inputs(torch.rand(1, 3, size, size), cached=cached)
    target = Target(10 * torch.rand(1, 1, size, size), torch.ones(1, size, size, dtype=torch.bool))
    optimiser = optimiser_for(method, RECIPES["concepts"])
    times = []
    for step in range(steps + 1):
        begin = time.perf_counter()
        optimiser.zero_grad()
        losses = task.loss(method(inputs, draws=Draws((step,))), target)
        losses["loss"].backward()
        optimiser.step()
        times.append(time.perf_counter() - begin)
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sys.stdout.write(json.dumps([statistics.median(times[1:]), gib, float(losses["loss"])]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="sd15", choices=("sd15", "sd21"))
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.architecture, args.size, args.steps, args.threads)
        return
    found = {}
    for form in ("sdpa", "dense"):
        command = [sys.executable, __file__, *sys.argv[1:], "--child", form]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[form] = json.loads(done.stdout)
    seconds, gib, _ = found["dense"]
    sys.stdout.write(f"{args.architecture}, {args.size} x {args.size}, {CONCEPTS} concepts, fp32\n")
    for form, (took, memory, loss) in found.items():
        sys.stdout.write(
            f"{form:5} {took:6.1f} s a step ({took / seconds:.2f} x dense), {memory:5.1f} GiB "
            f"({memory / gib:.2f} x dense), loss {loss:.5f}\n"
        )


if __name__ == "__main__":
    main()
