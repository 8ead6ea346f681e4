"""Pictures that keep the classes of a photograph: a segmenter steers Stable Diffusion (DDP, E.1).

A segmenter of ADE20K's classes, its prediction in the colours that ControlNets of segmentation were
trained on, and diffusers' own pipeline.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.pipelines.controlnet.pipeline_controlnet import StableDiffusionControlNetPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from diffsight.choices import CONTROLNET, STABLE_DIFFUSION
from diffsight.errors import InputError
from diffsight.formats.text import reason_of
from diffsight.inference.generate import (
    Networks,
    check_solver,
    encode_texts,
    load_networks,
    require_memory,
    require_schedule,
)
from diffsight.inference.predictor import Predictor
from diffsight.label_maps import ADE20K_CLASSES, ADE20K_COLOURS
from diffsight.types import Draws
from diffsight.weights import locate, read_folder

SUFFIX = ", best quality, extremely detailed"
MULTIPLE = 64  # pixels; sides of the pictures


@dataclass(frozen=True)
class Controlled:
    """What one segmenter gives for an image.

    Attributes:
        image: at the size of the pictures.
        classes: predicted ones, in the colours of ADE20K.
        pictures: one for each seed.
    """

    image: UInt8[Tensor, "3 h w"]
    classes: UInt8[Tensor, "3 h w"]
    pictures: UInt8[Tensor, "n 3 h w"]

    def row(self) -> UInt8[Tensor, "3 h w2"]:
        """Return all of them side by side."""
        return torch.cat([self.image, self.classes, *self.pictures], dim=2)


class Controller:
    """Stable Diffusion with a ControlNet of segmentation.

    The defaults are those of DDP's demo: 20 steps of DDIM, guidance 9.

    Args:
        model: Stable Diffusion, a folder in diffusers' layout or a hub id.
        controlnet: the ControlNet, likewise.
        device: where to run.

    Raises:
        InputError: if they cannot be loaded, or do not fit together.
    """

    def __init__(
        self,
        model: str | Path = STABLE_DIFFUSION,
        controlnet: str | Path = CONTROLNET,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.networks = load_networks(model, torch.device(device))
        net = _load_controlnet(controlnet, self.networks).to(device).eval()
        scheduler: Any = DDIMScheduler.from_config(self.networks.scheduler.config)
        self._pipeline: Any = StableDiffusionControlNetPipeline(
            vae=self.networks.vae,
            text_encoder=self.networks.text_encoder,
            tokenizer=self.networks.tokenizer,
            unet=self.networks.unet,
            controlnet=net,
            scheduler=scheduler,
            safety_checker=None,  # type: ignore[arg-type]
            feature_extractor=None,  # type: ignore[arg-type]
            requires_safety_checker=False,
        )
        self._pipeline.set_progress_bar_config(disable=True)

    @torch.inference_mode()
    def __call__(
        self,
        predictor: Predictor,
        image: UInt8[Tensor, "3 _ _"],
        prompt: str,
        *,
        side: int = 512,
        seeds: Sequence[int] = (0,),
        steps: int = 20,
        guidance: float = 9.0,
        negative: str = "",
        advance: Callable[[], None] = lambda: None,
    ) -> Controlled:
        """Segment an image, and paint pictures with the same classes.

        Args:
            predictor: segmenter of ADE20K's 150 classes.
            image: RGB.
            prompt: what is to be seen; words about quality are added to it.
            side: shorter side of the pictures; both sides become multiples of 64.
            seeds: of the pictures.
            steps: of the solver.
            guidance: weight of the prompt.
            negative: what must not be seen.
            advance: called after every step.

        Raises:
            InputError: if the segmenter has other classes, a text is too long, or a number is out
                of range.
        """
        require_ade20k(predictor, "the segmenter")
        for name, value in (("side", side), ("number of seeds", len(seeds))):
            if value < 1:
                raise InputError(f"{name} {value}: give at least 1")
        check_solver(steps, guidance)
        require_schedule(steps, self.networks)
        resized = _resized(image, side)
        require_memory((resized.shape[-2], resized.shape[-1]), len(seeds), self.networks)
        classes = painted(predictor.one(resized).to_label())
        texts = encode_texts([negative, prompt + SUFFIX], self.networks)
        pictures = [self._picture(classes, texts, seed, steps, guidance, advance) for seed in seeds]
        return Controlled(resized, classes, torch.stack(pictures))

    def _picture(
        self,
        classes: UInt8[Tensor, "3 h w"],
        texts: Tensor,
        seed: int,
        steps: int,
        guidance: float,
        advance: Callable[[], None],
    ) -> UInt8[Tensor, "3 h w"]:
        networks = self.networks
        edges = [side // networks.stride for side in classes.shape[-2:]]
        latents = Draws((seed,)).normal(0, (networks.unet.config.in_channels, *edges))

        def step(pipeline: Any, number: int, timestep: Any, values: dict[str, Any]) -> Any:
            advance()
            return values

        found = self._pipeline(
            image=classes[None].to(networks.device).float() / 255,
            prompt_embeds=texts[1:],
            negative_prompt_embeds=texts[:1],
            latents=latents.to(networks.device),
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="pt",
            callback_on_step_end=step,
        )
        return (found.images[0] * 255).round().clamp(0, 255).to("cpu", torch.uint8)


def require_ade20k(predictor: Predictor, source: str) -> None:
    """Refuse models of other classes.

    Args:
        predictor: with the model.
        source: what it is called in messages.

    Raises:
        InputError: if the classes are not the 150 of ADE20K.
    """
    names = predictor.model.task.class_names
    known = (
        f"{source}: a ControlNet of segmentation knows the {len(ADE20K_CLASSES)} classes of ADE20K"
    )
    if len(names) != len(ADE20K_CLASSES):
        what = f"{len(names)} classes" if names else "no classes"
        raise InputError(f"{known}, the model predicts {what}: give a model of ADE20K")
    for number, (own, name) in enumerate(zip(names, ADE20K_CLASSES, strict=True)):
        if own != name:
            raise InputError(
                f"{known}, of which class {number} is {name!r}; the model's is {own!r}: give a "
                "model of ADE20K, with names as in label_maps.ADE20K_CLASSES"
            )


def painted(classes: Tensor) -> UInt8[Tensor, "3 h w"]:
    """Return class numbers ``h w`` in the colours of ADE20K."""
    table = torch.tensor(ADE20K_COLOURS, dtype=torch.uint8)
    return table[classes.cpu().long()].movedim(-1, 0).contiguous()


def _resized(image: UInt8[Tensor, "3 _ _"], side: int) -> UInt8[Tensor, "3 h w"]:
    """Return an image of this shorter side; Lanczos enlarges it, the mean of areas reduces it."""
    height, width = image.shape[-2:]
    factor = side / min(height, width)
    rows, columns = (max(1, round(n * factor / MULTIPLE)) * MULTIPLE for n in (height, width))
    how = Image.Resampling.LANCZOS if factor > 1 else Image.Resampling.BOX
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    pixels = np.array(picture.resize((columns, rows), how))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _load_controlnet(source: str | Path, networks: Networks) -> Any:
    """Return a ControlNet that fits a UNet.

    Raises:
        InputError: if it cannot be loaded, or was made for another UNet.
    """
    folder = locate(source, ())
    try:
        config: Any = ControlNetModel.load_config(folder)
        with torch.device("meta"):
            net: Any = ControlNetModel.from_config(config)
    except Exception as error:  # diffusers raises anything on a folder of something else
        raise InputError(
            f"{source}: no ControlNet ({reason_of(error)}): give the folder or hub id of one"
        ) from None
    keys = ("cross_attention_dim", "block_out_channels", "in_channels")
    pairs = {key: (net.config[key], networks.unet.config[key]) for key in keys}
    reduces_by = 2 ** (len(net.config["conditioning_embedding_out_channels"]) - 1)
    for key, (theirs, ours) in {**pairs, "stride": (reduces_by, networks.stride)}.items():
        if theirs != ours:
            raise InputError(
                f"{source}: made for another diffusion model than {networks.name} ({key} {theirs}, "
                f"not {ours}): give the model that it was trained with"
            )
    _, state = read_folder(folder)
    own = net.state_dict()
    wrong = [k for k in {**own, **state} if own.get(k) is None or k not in state]
    wrong += [k for k in own if k in state and state[k].shape != own[k].shape]
    if wrong:
        raise InputError(f"{source}: its weights do not fit its configuration ({wrong[0]})")
    net.load_state_dict({k: v.float() for k, v in state.items()}, assign=True)
    return net
