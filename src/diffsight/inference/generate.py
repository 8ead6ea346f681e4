"""Generate images from texts with the embedded model or any Stable Diffusion model.

It uses classifier-free guidance (Ho and Salimans, 2022) and the second-order DPM-Solver++ (Lu et
al., 2022). This is the only module that needs the decoder of the autoencoder.
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
from diffsight.backbones import diffusion_weights
from diffsight.errors import InputError
from diffsight.formats.text import reason_of
from diffsight.ops.device import usable_device
from diffsight.ops.machine import require_bytes
from diffsight.prompts.encoder import load_text_encoder
from diffsight.types import Draws
from diffsight.weights import locate, resolve_folder

PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
BATCH_PIXELS = 2**19  # pixels per batch: two images of 512 x 512, or 32 of 128 x 128


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
    """Return images of texts: all images of the first prompt, then those of the second, and so on.

    Args:
        prompts: one or more descriptions of images.
        model: ``tiny``, or a Stable Diffusion model: a folder in the layout of diffusers, or a hub
            id.
        count: number of images per prompt. Image i has the seed ``seed + i``. It does not depend on
            the number of images or on the batches.
        steps: number of steps of the solver.
        guidance: guidance scale; with 1 the negative prompt has no effect.
        size: side of the square images in pixels; default: the size that the UNet was trained for.
        seed: seed of the first image of each prompt.
        negative: description of what the images must not show.
        device: device to run on; default: the GPU if there is one.
        advance: function that is called after every step with the number of images in the batch.

    Raises:
        InputError: if the model cannot be loaded, the size does not fit the model, a text has too
            many tokens, or a number is out of range.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    for name, value in (("count", count), ("number of prompts", len(prompts)), ("size", size)):
        if value is not None and value < 1:
            raise InputError(f"{name} {value}: give at least 1")
    check_solver(steps, guidance)
    pipeline = load_networks(model, torch.device(usable_device(device)))
    require_schedule(steps, pipeline)
    side = _choose_side(size, pipeline)
    require_memory((side, side), len(prompts) * count, pipeline)
    texts = encode_texts([negative, *prompts], pipeline)
    rows = [(row, seed + i) for row in range(1, 1 + len(prompts)) for i in range(count)]
    batch = max(1, BATCH_PIXELS // side**2)
    images = []
    for start in range(0, len(rows), batch):
        text_ids, seeds = zip(*rows[start : start + batch], strict=True)
        context = torch.cat([texts[[0] * len(text_ids)], texts[list(text_ids)]])
        latent = _denoise(context, seeds, side, steps, guidance, pipeline, advance)
        image = pipeline.vae.decode(latent / pipeline.vae.config.scaling_factor).sample
        images.append(((image + 1) * 127.5).round().clamp(0, 255).to("cpu", torch.uint8))
    return torch.cat(images)


@dataclass(frozen=True)
class Networks:
    """The networks of a Stable Diffusion model, in evaluation mode.

    Attributes:
        name: name of the model, for messages.
        tokenizer: CLIP's tokenizer.
        text_encoder: text tower.
        unet: UNet.
        vae: autoencoder.
        scheduler: DPM-Solver++ with the noise schedule of the model.
        device: device of the networks.
    """

    name: str
    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    scheduler: Any
    device: torch.device

    @property
    def stride(self) -> int:
        """Image pixels per cell of the latent, along an axis."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)


def load_networks(model: str | Path, device: torch.device) -> Networks:
    """Return the networks of a Stable Diffusion model in evaluation mode.

    Args:
        model: ``tiny``, a folder in the layout of diffusers, or a hub id.
        device: device to load them on.

    Raises:
        InputError: if a network cannot be loaded.
    """
    # any other name without a slash is a local folder, or mistyped: it is not looked up on the hub
    is_name = model in assets.DIFFUSION or "/" in str(model)
    folder = locate(model, PARTS) if is_name else resolve_folder(Path(model))
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise InputError(
            f"{model}: has no folder {missing[0]}/: give {' or '.join(assets.DIFFUSION)}, or a "
            "Stable Diffusion folder in the layout of diffusers"
        )
    try:
        unet = _without_weights(UNet2DConditionModel, folder / "unet")
        vae = _without_weights(AutoencoderKL, folder / "vae")
        scheduler = DPMSolverMultistepScheduler.from_pretrained(folder / "scheduler")
    except Exception as error:  # diffusers raises many types of errors for damaged configurations
        raise InputError(f"{folder}: {reason_of(error)}: copy it again") from None
    diffusion_weights.load_part(unet, "unet", folder)
    diffusion_weights.load_part(vae, "vae", folder)
    tokenizer, text_encoder = load_text_encoder(folder)
    for module in (text_encoder, unet, vae):
        module.to(device).eval()
    return Networks(str(model), tokenizer, text_encoder, unet, vae, scheduler, device)


def _without_weights(cls: Any, folder: Path) -> Any:
    """Return a network of diffusers on the meta device, from its configuration."""
    with torch.device("meta"):
        return cls.from_config(cls.load_config(folder))


def _choose_side(size: int | None, pipeline: Networks) -> int:
    """Return the side of the images in pixels.

    Args:
        size: requested side; None: the side that the UNet was trained for.
        pipeline: networks of the model.

    Raises:
        InputError: if the networks cannot halve the side often enough.
    """
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
    """Check the number of steps and the guidance scale.

    Args:
        steps: number of steps, at least 1.
        guidance: guidance scale, finite.

    Raises:
        InputError: if one of them is out of range.
    """
    if steps < 1:
        raise InputError(f"steps {steps}: give at least 1")
    if not math.isfinite(guidance):
        raise InputError(f"guidance {guidance}: give a number, such as 4")


def require_schedule(steps: int, pipeline: Networks) -> None:
    """Check that the solver has fewer steps than the noise schedule.

    Args:
        steps: number of steps of the solver.
        pipeline: networks with the noise schedule.

    Raises:
        InputError: if the solver has as many steps, or more.
    """
    trained = pipeline.scheduler.config.num_train_timesteps
    if steps >= trained:
        raise InputError(f"steps {steps}: give fewer than the {trained} of the noise schedule")


def require_memory(hw: tuple[int, int], count: int, pipeline: Networks) -> None:
    """Check that generated images fit into memory.

    Args:
        hw: height and width of an image in pixels.
        count: number of images.
        pipeline: networks with the decoder.

    Raises:
        InputError: if the device has too little memory for the decoder, or the machine has too
            little for all images.
    """
    repair = "choose a smaller --size, or a smaller --count"
    noun = f"{count} x {hw[0]} x {hw[1]} px"
    # input, activation and output of the decoder's last block, in float32
    decoder = 3 * 4 * pipeline.vae.config.block_out_channels[0] * hw[0] * hw[1]
    require_bytes(decoder, noun, repair, device=str(pipeline.device))
    require_bytes(2 * 3 * count * hw[0] * hw[1], noun, repair)


def encode_texts(texts: Sequence[str], pipeline: Networks) -> Float[Tensor, "b n e"]:
    """Return the last hidden states of the text encoder for texts, padded to its maximum length.

    Args:
        texts: texts to encode.
        pipeline: networks with the tokenizer and the text encoder.

    Raises:
        InputError: if a text has more tokens than the text encoder accepts.
    """
    tokenizer, model = pipeline.tokenizer, pipeline.text_encoder
    limit = min(tokenizer.model_max_length, model.config.max_position_embeddings)
    lengths = [len(ids) for ids in tokenizer(list(texts), verbose=False)["input_ids"]]
    for text, length in zip(texts, lengths, strict=True):
        if length > limit:
            raise InputError(
                f"{textwrap.shorten(text, 60, placeholder=' ...')!r}: {length} tokens with start "
                f"and end tokens, the text encoder takes {limit}: shorten it"
            )
    tokens = tokenizer(list(texts), padding="max_length", max_length=limit, return_tensors="pt")
    return model(tokens["input_ids"].to(pipeline.device)).last_hidden_state


def _denoise(
    context: Float[Tensor, "b2 n e"],
    seeds: Sequence[int],
    side: int,
    steps: int,
    guidance: float,
    pipeline: Networks,
    advance: Callable[[int], None],
) -> Float[Tensor, "b c lh lw"]:
    """Return latents that are denoised from pure noise.

    Args:
        context: text embeddings, two for each image: first the negative prompt for every image,
            then the prompts.
        seeds: seed of each image.
        side: side of the images in pixels.
        steps: number of steps of the solver.
        guidance: guidance scale.
        pipeline: networks.
        advance: function that is called after every step with the number of images.
    """
    unet, scheduler = pipeline.unet, pipeline.scheduler
    with warnings.catch_warnings():
        # numpy warns about the conversion of torch's tensors to arrays
        warnings.simplefilter("ignore", DeprecationWarning)
        scheduler.set_timesteps(steps, device=pipeline.device)
    edge = side // pipeline.stride
    noise = Draws(tuple(seeds)).normal(0, (unet.config.in_channels, edge, edge))
    latent = noise.to(pipeline.device) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        both = scheduler.scale_model_input(torch.cat([latent, latent]), timestep)
        negative, positive = unet(both, timestep, encoder_hidden_states=context).sample.chunk(2)
        guided = negative + guidance * (positive - negative)
        latent = scheduler.step(guided, timestep, latent).prev_sample
        advance(len(seeds))
    return latent
