"""Build full-size models with random weights, and measure the time and memory of their passes.

Our methods share the weights of the plain networks of diffusers that they are compared with.
"""

import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from diffsight.backbones import architectures
from diffsight.cli.recipe import read
from diffsight.hub.build import build, uninitialised, without_weights
from diffsight.model import DenseModel


def read_config(recipe: str, *, keep_weights: bool = False) -> dict[str, Any]:
    """Return the constructor calls of task and method of a recipe.

    Args:
        recipe: name of the recipe.
        keep_weights: whether to keep the sources of pretrained weights.
    """
    data = {part: value for part, value in read(recipe).items() if part in ("task", "method")}
    return data if keep_weights else without_weights(data)[0]


def build_reference(
    architecture: str | dict[str, Any] = "sd15", device: str = "cpu"
) -> tuple[AutoencoderKL, UNet2DConditionModel]:
    """Return the VAE encoder and the UNet of diffusers with random weights.

    Args:
        architecture: name of an architecture of Stable Diffusion, or its configuration.
        device: ``cpu``, or ``meta`` for networks without weights.
    """
    config = architectures.resolve(architecture)
    blocks = len(config["vae"]["block_out_channels"])
    types = {
        "down_block_types": ("DownEncoderBlock2D",) * blocks,
        "up_block_types": ("UpDecoderBlock2D",) * blocks,
    }
    with torch.device("meta"):
        vae: Any = AutoencoderKL(**config["vae"], **types)
        unet: Any = UNet2DConditionModel(**config["unet"])
    del vae.decoder, vae.post_quant_conv
    for module in (vae, unet):
        module.to_empty(device=device)
        for parameter in module.parameters():
            parameter.data.normal_(std=0.02)
    return vae.eval(), unet.eval()


def build_ours(
    recipe: str | Mapping[str, Any], vae: AutoencoderKL, unet: UNet2DConditionModel
) -> Any:
    """Return the method of a recipe; it shares the weights of the diffusers networks.

    Args:
        recipe: name of the recipe, or its constructor calls of task and method.
        vae: VAE encoder of ``build_reference``.
        unet: UNet of ``build_reference``.
    """
    config = read_config(recipe) if isinstance(recipe, str) else recipe
    with uninitialised():
        method: Any = build(config).method
    shared = {id(parameter) for parameter in method.backbone.parameters()}
    for parameter in method.parameters():
        if id(parameter) not in shared:
            parameter.data.normal_(std=0.02)
    method.backbone.unet.load_state_dict(unet.state_dict(), assign=True, strict=False)
    method.backbone.vae.load_state_dict(vae.state_dict(), assign=True)
    return method.eval()


def build_random(recipe: str | Mapping[str, Any], device: str = "cpu") -> DenseModel:
    """Return the model of a recipe with random weights.

    Args:
        recipe: name of the recipe, or its constructor calls of task and method.
        device: ``cpu``, or ``meta`` for a model without weights.
    """
    torch.manual_seed(0)
    config = read_config(recipe) if isinstance(recipe, str) else recipe
    if device == "cpu":
        return build(config).eval()
    with uninitialised():  # pretrained weights cannot be loaded under ``torch.device("meta")``
        return build(config).to(device).eval()


def seconds_of(
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: bool = True,
) -> dict[str, list[float]]:
    """Return the seconds of all rounds by variant; each round starts with another variant.

    Args:
        variants: functions that run a variant once, by name.
        rounds: number of rounds.
        clock: function that returns the time in seconds.
        warm_up: whether every variant runs once before the first round.
    """
    if warm_up:
        for run in variants.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    order = deque(variants.items())
    for _ in range(rounds):
        for name, run in order:
            start = clock()
            run()
            seconds[name].append(clock() - start)
        # rotate, because the variant that follows the whole model is slower: it needs new memory
        order.rotate(1)
    return seconds


def peak_of(run: Callable[[], object]) -> float:
    """Return the peak memory of this process in MiB while it calls ``run`` (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current size
    run()
    return memory_of_this_process("VmHWM")


def memory_of_this_process(field: str) -> float:
    """Return a size of ``/proc/self/status`` in MiB, such as ``VmRSS`` or ``VmHWM`` (Linux)."""
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None, field
    return int(match[1]) / 1024
