"""Generate pictures that keep the classes of a photograph (DDP, appendix E.1).

A model predicts the ADE20K classes of the photograph. The prediction, in the colours that
segmentation ControlNets were trained on, controls Stable Diffusion in the pipeline of diffusers.
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
MULTIPLE = 64  # both sides of the pictures are multiples of this, in pixels


@dataclass(frozen=True)
class ControlResult:
    """Pictures that were generated from the classes that one model predicts in an image.

    Attributes:
        image: the image, resized to the size of the pictures.
        classes: predicted classes in the colours of ADE20K.
        pictures: one generated picture per seed.
    """

    image: UInt8[Tensor, "3 h w"]
    classes: UInt8[Tensor, "3 h w"]
    pictures: UInt8[Tensor, "n 3 h w"]

    def row(self) -> UInt8[Tensor, "3 h w2"]:
        """Return the image, the classes and all pictures side by side."""
        return torch.cat([self.image, self.classes, *self.pictures], dim=2)


class Controller:
    """Generates pictures with Stable Diffusion and a segmentation ControlNet.

    The defaults are those of DDP's demo: 20 steps of DDIM and guidance 9.

    Args:
        model: Stable Diffusion: a folder in the layout of diffusers, or a hub id.
        controlnet: ControlNet: a folder in the layout of diffusers, or a hub id.
        device: device to run on.

    Raises:
        InputError: if one of them cannot be loaded, or they do not fit together.
    """

    def __init__(
        self,
        model: str | Path = STABLE_DIFFUSION,
        controlnet: str | Path = CONTROLNET,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.networks = load_networks(model, torch.device(device))
        network = _load_controlnet(controlnet, self.networks).to(device).eval()
        scheduler: Any = DDIMScheduler.from_config(self.networks.scheduler.config)
        self._pipeline: Any = StableDiffusionControlNetPipeline(
            vae=self.networks.vae,
            text_encoder=self.networks.text_encoder,
            tokenizer=self.networks.tokenizer,
            unet=self.networks.unet,
            controlnet=network,
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
    ) -> ControlResult:
        """Predict the classes of an image, and generate pictures with the same classes.

        Args:
            predictor: predictor of a model with the 150 classes of ADE20K.
            image: RGB image.
            prompt: description of the pictures; words about quality are appended.
            side: shorter side of the pictures in pixels; both sides become multiples of 64.
            seeds: seed of each picture.
            steps: number of steps of the solver (DDIM).
            guidance: weight of the prompt (classifier-free guidance).
            negative: description of what the pictures must not show.
            advance: function that is called after every step.

        Raises:
            InputError: if the model has other classes, a text is too long, or a number is out of
                range.
        """
        require_ade20k(predictor, "the model")
        for name, value in (("side", side), ("number of seeds", len(seeds))):
            if value < 1:
                raise InputError(f"{name} {value}: give at least 1")
        check_solver(steps, guidance)
        require_schedule(steps, self.networks)
        resized = _resize(image, side)
        require_memory((resized.shape[-2], resized.shape[-1]), len(seeds), self.networks)
        classes = colour_classes(predictor.one(resized).to_label())
        texts = encode_texts([negative, prompt + SUFFIX], self.networks)
        pictures = [self._picture(classes, texts, seed, steps, guidance, advance) for seed in seeds]
        return ControlResult(resized, classes, torch.stack(pictures))

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

        def report_step(pipeline: Any, number: int, timestep: Any, values: dict[str, Any]) -> Any:
            advance()
            return values

        result = self._pipeline(
            image=classes[None].to(networks.device).float() / 255,
            prompt_embeds=texts[1:],
            negative_prompt_embeds=texts[:1],
            latents=latents.to(networks.device),
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="pt",
            callback_on_step_end=report_step,
        )
        return (result.images[0] * 255).round().clamp(0, 255).to("cpu", torch.uint8)


def require_ade20k(predictor: Predictor, source: str) -> None:
    """Check that a model predicts the classes of ADE20K.

    Args:
        predictor: predictor with the model.
        source: name of the model in messages.

    Raises:
        InputError: if the classes of the model are not the 150 classes of ADE20K.
    """
    names = predictor.model.task.class_names
    reason = f"{source}: the ControlNet needs the {len(ADE20K_CLASSES)} classes of ADE20K"
    if len(names) != len(ADE20K_CLASSES):
        predicted = f"{len(names)} classes" if names else "no classes"
        raise InputError(f"{reason}, the model predicts {predicted}: give a model of ADE20K")
    for number, (name, expected) in enumerate(zip(names, ADE20K_CLASSES, strict=True)):
        if name != expected:
            raise InputError(
                f"{reason}, but class {number} of the model is {name!r}, not {expected!r}: give a "
                "model with the names of label_maps.ADE20K_CLASSES"
            )


def colour_classes(classes: Tensor) -> UInt8[Tensor, "3 h w"]:
    """Return a map of class ids ``h w`` in the colours of ADE20K."""
    table = torch.tensor(ADE20K_COLOURS, dtype=torch.uint8)
    return table[classes.cpu().long()].movedim(-1, 0).contiguous()


def _resize(image: UInt8[Tensor, "3 _ _"], side: int) -> UInt8[Tensor, "3 h w"]:
    """Return an image with the given shorter side; both sides become multiples of 64 pixels.

    Images are enlarged with a Lanczos filter and reduced with a box filter, as in DDP's demo.
    """
    height, width = image.shape[-2:]
    factor = side / min(height, width)
    rows, columns = (max(1, round(n * factor / MULTIPLE)) * MULTIPLE for n in (height, width))
    resampling = Image.Resampling.LANCZOS if factor > 1 else Image.Resampling.BOX
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    pixels = np.array(picture.resize((columns, rows), resampling))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _load_controlnet(source: str | Path, networks: Networks) -> Any:
    """Return a ControlNet in float32, after checking that it fits a Stable Diffusion model.

    Args:
        source: folder or hub id.
        networks: networks of the Stable Diffusion that it must fit.

    Raises:
        InputError: if it cannot be loaded, or was trained with another UNet.
    """
    folder = locate(source, ())
    try:
        config: Any = ControlNetModel.load_config(folder)
        with torch.device("meta"):
            network: Any = ControlNetModel.from_config(config)
    except Exception as error:  # diffusers raises many types of errors for other files
        raise InputError(
            f"{source}: not a ControlNet ({reason_of(error)}): give the folder or hub id of one"
        ) from None
    keys = ("cross_attention_dim", "block_out_channels", "in_channels")
    pairs = {key: (network.config[key], networks.unet.config[key]) for key in keys}
    stride = 2 ** (len(network.config["conditioning_embedding_out_channels"]) - 1)
    for key, (actual, required) in {**pairs, "stride": (stride, networks.stride)}.items():
        if actual != required:
            raise InputError(
                f"{source}: made for another diffusion model than {networks.name} ({key} {actual}, "
                f"not {required}): give the diffusion model that it was trained with"
            )
    _, state = read_folder(folder)
    expected = network.state_dict()
    wrong = [k for k in {**expected, **state} if expected.get(k) is None or k not in state]
    wrong += [k for k in expected if k in state and state[k].shape != expected[k].shape]
    if wrong:
        raise InputError(
            f"{source}: the weights do not fit the configuration ({wrong[0]}): download it again"
        )
    network.load_state_dict({k: v.float() for k, v in state.items()}, assign=True)
    return network
