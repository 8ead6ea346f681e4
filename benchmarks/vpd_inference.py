"""Compare a full-size VPD or EVP model on a CPU with the networks of diffusers alone.

The reference is the VAE encoder and the UNet of diffusers with default attention. All models have
the shape of Stable Diffusion 1.5 and random weights, and predict one image in fp32. The variants
share their weights and take turns in one process; each round starts with another variant. Ratios to
the reference are computed within a round, and their median is printed. Peak memory is measured in
a process that runs only one variant, including the weights (Linux). VPD pads images to a multiple
of 64 px. The reference is measured with the padded image and, if it differs, the original image.

    python benchmarks/vpd_inference.py [--recipe vpd/depth_nyu] [--sizes 480x640 512x512]
                                       [--rounds 5] [--threads 2] [--channels-last]
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from diffsight.backbones.architectures import PRESETS
from diffsight.cli.recipe import read
from diffsight.hub.build import build, uninitialised, without_weights
from diffsight.ops.memory import keep_freed_memory
from diffsight.ops.padding import pad_to_multiple
from diffsight.types import Inputs

TIMESTEP = 1
VARIANTS = ("reference", "reference, unpadded", "trunk and taps", "whole model")
_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}


def build_reference() -> tuple[AutoencoderKL, UNet2DConditionModel]:
    """Return the VAE encoder and the UNet of diffusers with random weights."""
    with torch.device("meta"):
        vae, unet = AutoencoderKL(**_VAE), UNet2DConditionModel(**PRESETS["sd15"]["unet"])
    del vae.decoder, vae.post_quant_conv
    for module in (vae, unet):
        module.to_empty(device="cpu")
        for parameter in module.parameters():
            parameter.data.normal_(std=0.02)
    return vae.eval(), unet.eval()


def build_ours(recipe: str, vae: AutoencoderKL, unet: UNet2DConditionModel) -> Any:
    """Return the method of a recipe; it shares the weights of the diffusers networks."""
    data = read(recipe)
    config = {part: without_weights(data[part])[0] for part in ("task", "method")}
    with uninitialised():
        method: Any = build(config).method
    shared = {id(parameter) for parameter in method.backbone.parameters()}
    for parameter in method.parameters():
        if id(parameter) not in shared:
            parameter.data.normal_(std=0.02)
    method.backbone.unet.load_state_dict(unet.state_dict(), assign=True, strict=False)
    method.backbone.vae.load_state_dict(vae.state_dict(), assign=True)
    return method.eval()


def runs(
    recipe: str, height: int, width: int, channels_last: bool = False
) -> dict[str, Callable[[], object]]:
    """Return the variants by name, each as a function that runs it once."""
    vae, unet = build_reference()
    ours = build_ours(recipe, vae, unet)
    if channels_last:  # copies the shared weights, so that the reference keeps its memory format
        ours = ours.to(memory_format=torch.channels_last)
    keep_freed_memory()  # as in ``diffsight predict``; it speeds up the reference as well
    image = torch.rand(1, 3, height, width)
    padded = pad_to_multiple(image, 64, 0.5)
    context = torch.randn(1, ours.prompts.num_tokens, 768)

    def run_reference(x: torch.Tensor) -> object:
        return unet(vae.encode(x * 2 - 1).latent_dist.mode(), TIMESTEP, context)

    def features(x: torch.Tensor) -> object:
        backbone = ours.backbone
        return backbone.features(backbone.encode(x), context, torch.tensor([TIMESTEP]))

    variants: dict[str, Callable[[], object]] = {
        "reference": lambda: run_reference(padded),
        "reference, unpadded": lambda: run_reference(image),
        "trunk and taps": lambda: features(padded),
        "whole model": lambda: ours(Inputs(image)),
    }
    if padded.shape == image.shape:
        del variants["reference, unpadded"]
    return variants


def seconds_of(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of all rounds by variant; each round starts with another variant."""
    for run in variants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    order = deque(variants.items())
    for _ in range(rounds):
        for name, run in order:
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
        # rotate, because the variant that follows the whole model is slower: it needs new memory
        order.rotate(1)
    return seconds


@torch.inference_mode()
def time_ratios(
    recipe: str, height: int, width: int, rounds: int, channels_last: bool
) -> dict[str, tuple[float, float]]:
    """Return the median seconds and the median ratio to the reference, by variant."""
    variants = runs(recipe, height, width, channels_last)
    seconds = seconds_of(variants, rounds)
    return {
        name: (
            statistics.median(values),
            statistics.median(a / b for a, b in zip(values, seconds["reference"], strict=True)),
        )
        for name, values in seconds.items()
    }


@torch.inference_mode()
def peak_mib_of_this_process(recipe: str, variant: str, height: int, width: int) -> float:
    """Return the peak memory in MiB of one pass of a variant in this process."""
    return peak_of(runs(recipe, height, width)[variant])


def peak_of(run: Callable[[], object]) -> float:
    """Return the peak memory of this process in MiB while it calls ``run`` (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current size
    run()
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def peak_mib(recipe: str, variant: str, size: str, threads: int) -> float:
    """Run one pass of a variant in its own process; return the peak memory in MiB."""
    command = [sys.executable, __file__, "--recipe", recipe, "--variant", variant, "--sizes", size]
    out = subprocess.run([*command, "--threads", str(threads)], stdout=subprocess.PIPE, check=True)
    return json.loads(out.stdout)


def main() -> None:
    """Measure the variants at every size and print a table for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--recipe", default="vpd/depth_nyu", help="recipe of a model whose prompt is not a sentence"
    )
    parser.add_argument(
        "--sizes", nargs="+", default=["480x640", "512x512"], help="height x width in pixels"
    )
    parser.add_argument("--rounds", type=int, default=5, help="number of timed runs")
    parser.add_argument(
        "--memory-rounds", type=int, default=3, help="processes per variant that measure memory"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--channels-last", action="store_true", help="run our model in channels-last memory format"
    )
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for size in args.sizes:
        height, width = map(int, size.split("x"))
        if args.variant:
            peak = peak_mib_of_this_process(args.recipe, args.variant, height, width)
            sys.stdout.write(json.dumps(peak))
            return
        times = time_ratios(args.recipe, height, width, args.rounds, args.channels_last)
        memory: dict[str, list[float]] = {name: [] for name in times}
        for _ in range(args.memory_rounds):
            for name in times:
                memory[name].append(peak_mib(args.recipe, name, size, args.threads))
        sys.stdout.write(
            f"\n{args.recipe}, {size}, {args.threads} threads, torch {torch.__version__}\n"
        )
        sys.stdout.write(
            f"{'':20}{'seconds':>9}{'x reference':>13}{'peak MiB':>10}{'x reference':>13}\n"
        )
        for name, (seconds, ratio) in times.items():
            pairs = zip(memory[name], memory["reference"], strict=True)
            relative = statistics.median(a / b for a, b in pairs)
            peak = statistics.median(memory[name])
            row = f"{name:20}{seconds:9.2f}{ratio:13.3f}{peak:10.0f}{relative:13.3f}\n"
            sys.stdout.write(row)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
