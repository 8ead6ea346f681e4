"""Full-size VPD depth on a CPU beside its floor: plain diffusers VAE encoder + UNet with default
attention.

Random weights in Stable Diffusion 1.5's shape, fp32, batch 1. The variants take turns in one
process and share their weights; each round starts with another one and gives a ratio to the floor
of the same round, and the median of the ratios is printed. Peak memory is that of a process which
runs one variant alone (weights included), again in turns. Images are padded to a multiple of 64 px
as VPD does; the floor gets the padded image, and where that differs the image as it is, too.

    python benchmarks/vpd_inference.py [--sizes 480x640 512x512] [--rounds 5] [--threads 2]
                                       [--channels-last]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from diffsight.backbones import StableDiffusion
from diffsight.backbones.architectures import PRESETS
from diffsight.heads import DeconvHead
from diffsight.methods import VPD
from diffsight.necks import Merging
from diffsight.ops.padding import pad_to_multiple
from diffsight.prompts import TextTable
from diffsight.types import Inputs

VARIANTS = ("floor", "floor, unpadded", "trunk and taps", "whole model")
_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}


def build_floor() -> tuple[AutoencoderKL, UNet2DConditionModel]:
    with torch.device("meta"):
        vae, unet = AutoencoderKL(**_VAE), UNet2DConditionModel(**PRESETS["sd15"]["unet"])
    del vae.decoder, vae.post_quant_conv
    for module in (vae, unet):
        module.to_empty(device="cpu")
        for parameter in module.parameters():
            parameter.data.normal_(std=0.02)
    return vae.eval(), unet.eval()


def build_ours(vae: AutoencoderKL, unet: UNet2DConditionModel) -> VPD:
    with torch.device("meta"):
        backbone = StableDiffusion("sd15")
    backbone.unet.load_state_dict(unet.state_dict(), assign=True, strict=False)
    backbone.vae.load_state_dict(vae.state_dict(), assign=True)
    prompts = TextTable([str(i) for i in range(27)])
    return VPD(
        num_outputs=1, backbone=backbone, prompts=prompts, neck=Merging, head=partial(DeconvHead)
    ).eval()


def runs(height: int, width: int, channels_last: bool = False) -> dict[str, Callable[[], object]]:
    vae, unet = build_floor()
    ours = build_ours(vae, unet)
    if channels_last:  # the floor keeps the default format: what is loaded with assign is copied
        ours = ours.to(memory_format=torch.channels_last)
    image = torch.rand(1, 3, height, width)
    padded = pad_to_multiple(image, 64, 0.5)
    context = torch.randn(1, 1, 768)

    def floor(x: torch.Tensor) -> object:
        return unet(vae.encode(x * 2 - 1).latent_dist.mode(), 1, context)

    found: dict[str, Callable[[], object]] = {
        "floor": lambda: floor(padded),
        "floor, unpadded": lambda: floor(image),
        "trunk and taps": lambda: ours.backbone(padded, context),
        "whole model": lambda: ours(Inputs(image)),
    }
    if padded.shape == image.shape:
        del found["floor, unpadded"]
    return found


@torch.inference_mode()
def time_ratios(
    height: int, width: int, rounds: int, channels_last: bool
) -> dict[str, tuple[float, float]]:
    variants = runs(height, width, channels_last)
    for run in variants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    order = deque(variants.items())
    for _ in range(rounds):
        for name, run in order:
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
        # what comes after the head's large maps pays for fresh memory
        order.rotate(1)
    return {
        name: (
            statistics.median(values),
            statistics.median(a / b for a, b in zip(values, seconds["floor"], strict=True)),
        )
        for name, values in seconds.items()
    }


@torch.inference_mode()
def peak_mb_of_this_process(variant: str, height: int, width: int) -> float:
    runs(height, width)[variant]()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak_mb(variant: str, size: str, threads: int) -> float:
    command = [sys.executable, __file__, "--variant", variant, "--sizes", size]
    out = subprocess.run([*command, "--threads", str(threads)], capture_output=True, check=True)
    return json.loads(out.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["480x640", "512x512"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--channels-last", action="store_true", help="ours in that memory format")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for size in args.sizes:
        height, width = map(int, size.split("x"))
        if args.variant:
            sys.stdout.write(json.dumps(peak_mb_of_this_process(args.variant, height, width)))
            return
        times = time_ratios(height, width, args.rounds, args.channels_last)
        memory: dict[str, list[float]] = {name: [] for name in times}
        for _ in range(args.memory_rounds):
            for name in times:
                memory[name].append(peak_mb(name, size, args.threads))
        sys.stdout.write(f"\n{size}, {args.threads} threads, torch {torch.__version__}\n")
        sys.stdout.write(
            f"{'':18}{'seconds':>9}{'time x floor':>14}{'peak MB':>9}{'memory x floor':>16}\n"
        )
        for name, (seconds, ratio) in times.items():
            pairs = zip(memory[name], memory["floor"], strict=True)
            relative = statistics.median(a / b for a, b in pairs)
            peak = statistics.median(memory[name])
            row = f"{name:18}{seconds:9.2f}{ratio:14.3f}{peak:9.0f}{relative:16.3f}\n"
            sys.stdout.write(row)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
