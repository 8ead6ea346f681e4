"""Text to image with the embedded model or any Stable Diffusion in diffusers' layout.

Classifier-free guidance (Ho and Salimans, 2022) and DPM-Solver++ of second order (Lu et al., 2022).
The decoder of the autoencoder is used here and nowhere else.
"""

import math
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from jaxtyping import Float, UInt8
from torch import Tensor

from diffsight import assets
from diffsight.backbones import sources
from diffsight.errors import InputError
from diffsight.formats.text import reason_of
from diffsight.inference.pipeline import default_device
from diffsight.ops.machine import require_bytes
from diffsight.prompts.encoder import load_text_encoder
from diffsight.types import Draws
from diffsight.weights import locate, resolve_folder

PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
BATCH_PIXELS = 2**19  # two images of 512 x 512, 32 of 128 x 128


@torch.inference_mode()
def generate(
    prompts: str | Sequence[str],
    *,
    model: str | Path = "tiny",
    count: int = 1,
    steps: int = 30,
    guidance: float = 4.0,
    size: int | None = None,
    seed: int = 0,
    negative: str = "",
    device: torch.device | str | None = None,
    advance: Callable[[int], None] = lambda images: None,
) -> UInt8[Tensor, "b 3 h w"]:
    """Images of texts: all of the first prompt, then all of the second.

    Args:
        prompts: what is to be seen.
        model: ``tiny``, or a Stable Diffusion folder in diffusers' layout.
        count: images per prompt. Image i has the seed ``seed + i``, whatever the prompt, the
            number of images and how they are batched.
        steps: of the solver.
        guidance: how far to go from the negative prompt to the prompt: 1 ignores the former.
        size: side in pixels; default: what the UNet was trained for.
        seed: of the first image of each prompt.
        negative: text to stay away from.
        device: where to run; default: the GPU if there is one.
        advance: called after every step with the number of images that took it.

    Raises:
        InputError: if the model cannot be loaded, the size does not fit it, a text is longer than
            its encoder takes, or a number is out of range.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    for name, value in (("count", count), ("number of prompts", len(prompts))):
        if value < 1:
            raise InputError(f"{name} {value}: give at least 1")
    check_solver(steps, guidance)
    pipeline = load_networks(model, torch.device(device or default_device()))
    require_schedule(steps, pipeline)
    side = _side(size, pipeline)
    require_memory((side, side), len(prompts) * count, pipeline)
    texts = encode_texts([negative, *prompts], pipeline)
    rows = [(row, seed + i) for row in range(1, 1 + len(prompts)) for i in range(count)]
    batch = max(1, BATCH_PIXELS // side**2)
    images = []
    for start in range(0, len(rows), batch):
        which, seeds = zip(*rows[start : start + batch], strict=True)
        context = torch.cat([texts[[0] * len(which)], texts[list(which)]])
        latent = _sample(context, seeds, side, steps, guidance, pipeline, advance)
        image = pipeline.vae.decode(latent / pipeline.vae.config.scaling_factor).sample
        images.append(((image + 1) * 127.5).round().clamp(0, 255).to("cpu", torch.uint8))
    return torch.cat(images)


@dataclass(frozen=True)
class Networks:
    """The modules of a folder, typed as diffusers' and transformers' own types are not."""

    name: str
    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    scheduler: Any
    device: torch.device

    @property
    def stride(self) -> int:
        """Image pixels per latent pixel."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)


def load_networks(model: str | Path, device: torch.device) -> Networks:
    """Return the networks of a folder, a hub id, or the model of the package.

    Raises:
        InputError: if they cannot be loaded.
    """
    is_name = model in assets.DIFFUSION or "/" in str(model)  # another word is a mistyped tiny
    folder = locate(model, PARTS) if is_name else resolve_folder(Path(model))
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise InputError(
            f"{model}: no {missing[0]}/ in it: give {' or '.join(assets.DIFFUSION)}, or the "
            "folder of a Stable Diffusion in diffusers' layout"
        )
    try:
        unet = _without_weights(UNet2DConditionModel, folder / "unet")
        vae = _without_weights(AutoencoderKL, folder / "vae")
        scheduler = DPMSolverMultistepScheduler.from_pretrained(folder / "scheduler")
    except Exception as error:  # diffusers raises anything on a configuration that is damaged
        raise InputError(f"{folder}: {reason_of(error)}: copy it again") from None
    sources.load_part(unet, "unet", folder)
    sources.load_part(vae, "vae", folder)
    tokenizer, text_encoder = load_text_encoder(folder)
    for module in (text_encoder, unet, vae):
        module.to(device).eval()
    return Networks(str(model), tokenizer, text_encoder, unet, vae, scheduler, device)


def _without_weights(cls: Any, folder: Path) -> Any:
    with torch.device("meta"):
        return cls.from_config(cls.load_config(folder))


def _side(size: int | None, pipeline: Networks) -> int:
    stride = pipeline.stride
    side = size or (pipeline.unet.config.sample_size or 0) * stride
    multiple = stride * 2 ** (len(pipeline.unet.config.block_out_channels) - 1)
    if side < 1 or side % multiple:
        near = max(multiple, round(side / multiple) * multiple)
        raise InputError(
            f"size {size}: {pipeline.name} needs a multiple of {multiple} px, such as {near}"
        )
    return side


def check_solver(steps: int, guidance: float) -> None:
    """Refuse numbers that are out of range.

    Raises:
        InputError: if one is.
    """
    if steps < 1:
        raise InputError(f"steps {steps}: give at least 1")
    if not math.isfinite(guidance):
        raise InputError(f"guidance {guidance}: give a number, such as 4")


def require_schedule(steps: int, pipeline: Networks) -> None:
    """Refuse more steps than the noise schedule has.

    Raises:
        InputError: if it has fewer.
    """
    trained = pipeline.scheduler.config.num_train_timesteps
    if steps >= trained:
        raise InputError(f"steps {steps}: give fewer than the {trained} of the noise schedule")


def require_memory(hw: tuple[int, int], count: int, pipeline: Networks) -> None:
    """Refuse what cannot fit: the decoder at full size, and all images.

    Raises:
        InputError: if there is too little memory.
    """
    repair = "choose a smaller --size, or a smaller --count"
    what = f"{count} x {hw[0]} x {hw[1]} px"
    # input, activation and output of the last block, in 32 bit
    decoder = 3 * 4 * pipeline.vae.config.block_out_channels[0] * hw[0] * hw[1]
    require_bytes(decoder, what, repair, device=str(pipeline.device))
    require_bytes(2 * 3 * count * hw[0] * hw[1], what, repair)


def encode_texts(texts: Sequence[str], pipeline: Networks) -> Float[Tensor, "b n e"]:
    """Return what the text encoder gives.

    Raises:
        InputError: if a text is longer than it takes.
    """
    tokenizer, model = pipeline.tokenizer, pipeline.text_encoder
    limit = min(tokenizer.model_max_length, model.config.max_position_embeddings)
    lengths = [len(ids) for ids in tokenizer(list(texts), verbose=False)["input_ids"]]
    for text, length in zip(texts, lengths, strict=True):
        if length > limit:
            raise InputError(
                f"{textwrap.shorten(text, 60, placeholder=' ...')!r}: {length} tokens with begin "
                f"and end, the text encoder takes {limit}: shorten it"
            )
    tokens = tokenizer(list(texts), padding="max_length", max_length=limit, return_tensors="pt")
    return model(tokens["input_ids"].to(pipeline.device)).last_hidden_state


def _sample(
    context: Float[Tensor, "b2 n e"],
    seeds: Sequence[int],
    side: int,
    steps: int,
    guidance: float,
    pipeline: Networks,
    advance: Callable[[int], None],
) -> Float[Tensor, "b c lh lw"]:
    """Latents of pure noise, denoised; the first half of ``context`` is the negative prompt's."""
    unet, scheduler = pipeline.unet, pipeline.scheduler
    with warnings.catch_warnings():
        # of numpy, about how torch's tensors become arrays
        warnings.simplefilter("ignore", DeprecationWarning)
        scheduler.set_timesteps(steps, device=pipeline.device)
    edge = side // pipeline.stride
    noise = Draws(tuple(seeds)).normal(0, (unet.config.in_channels, edge, edge))
    latent = noise.to(pipeline.device) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        both = scheduler.scale_model_input(torch.cat([latent, latent]), timestep)
        away, towards = unet(both, timestep, encoder_hidden_states=context).sample.chunk(2)
        guided = away + guidance * (towards - away)
        latent = scheduler.step(guided, timestep, latent).prev_sample
        advance(len(seeds))
    return latent
