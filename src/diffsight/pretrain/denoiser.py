"""Third stage of the pretraining: a UNet that denoises latents, conditioned on captions."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import UNet2DConditionModel

from diffsight.atomic import replacing
from diffsight.backbones.architectures import PRESETS
from diffsight.backbones.base import TIMESTEPS
from diffsight.errors import InputError
from diffsight.inference.generate import generate
from diffsight.pretrain.denoising import Denoising, NoisyBatch
from diffsight.pretrain.folder import (
    config_of,
    load_part,
    replace_folder,
    require_part,
    save_half,
    stride_of,
    write_json,
)
from diffsight.pretrain.frozen_outputs import (
    OutputOf,
    open_latents,
    open_teacher_features,
    open_text_features,
    open_tower_features,
)
from diffsight.pretrain.pictures import Pictures
from diffsight.pretrain.probe import probe
from diffsight.pretrain.stage import AbstractStage, Fetch, Preview, StageContext
from diffsight.training.learner import Validation
from diffsight.training.optim import AdamW
from diffsight.training.schedules import AbstractSchedule

SCORED = 256  # held-out pictures that are scored
TOWER = "image_encoder"
# levels of the UNet's feature pyramid that are aligned with a teacher, 0 is the finest
TOWER_LEVELS = (1,)  # its grid is about that of the tower
TEACHER_LEVELS = (0, 1, 2, 3)
EARLY = 60  # timesteps below this have little noise, as the latents from which dense heads predict

FIXED_PROMPTS = (
    "a kitchen with a white refrigerator, a wooden table and a window",
    "a bathroom with a bathtub, a toilet and a sink, tiled white walls",
    "a bedroom with a bed with a blue blanket and a yellow lamp, wooden floor",
    "a living room with a red sofa, a television and a plant",
    "an office with a wooden table, a black chair and a brown shelf",
    "a classroom with three tables and two people",
    "a dining room with a wooden table and four chairs, green walls",
    "a playroom with a red ball, a blue box and a yellow cone",
    "a view of a living room with a person in a green shirt and a grey sofa",
    "a kitchen with a blue cabinet, an oven and a striped red rug",
    "a bedroom with a white door and purple curtains, sunlight",
    "a playroom with a green cylinder, an orange ball and a checkered blue rug",
)


def change_latent(old: Any, latent: dict[str, int]) -> UNet2DConditionModel:
    """Return a UNet for latents of another shape, with the weights of all layers that still fit.

    If the number of channels differs, the first and the last layer are new.

    Args:
        old: UNet to copy from.
        latent: ``in_channels``, ``out_channels`` and ``sample_size`` of the new UNet.
    """
    unet: Any = UNet2DConditionModel.from_config({**old.config, **latent})
    new = unet.state_dict()
    fitting = {
        name: value for name, value in old.state_dict().items() if value.shape == new[name].shape
    }
    unet.load_state_dict(fitting, strict=False)
    return unet


@dataclass(frozen=True, kw_only=True)
class Denoiser(AbstractStage):
    """The stage that trains the UNet, on cached latents and text features.

    Args:
        optim: AdamW and its parameter groups.
        steps: optimiser steps.
        batch_size: pictures per step.
        schedule: learning rate; constant by default.
        size: side of the training pictures in pixels; it divides that of the rendered pictures.
        widths: channels of the UNet's four levels.
        heads: attention heads of each level.
        groups: groups of the group normalisations.
        empty: fraction of the captions that are replaced by an empty one.
        early: fraction of the pictures whose timestep is one of the first 60; the other pictures
            get any timestep.
        teacher: frozen network with which the features of the UNet are aligned: the model's own
            vision tower (``image_encoder``) with one level of them, or a vision backbone and the
            size of its input, such as ``efficientnet-lite0@256``, with all levels.
        align_weight: weight of the alignment loss; 0 leaves it out.
        ema_decay: decay of the exponential moving average of the weights.
        name: name of the stage's folder.
    """

    optim: AdamW
    steps: int
    batch_size: int
    schedule: AbstractSchedule | None = None
    size: int = 64
    widths: Sequence[int] = (32, 64, 96, 128)
    heads: Sequence[int] = (1, 2, 3, 4)
    groups: int = 8
    empty: float = 0.1
    early: float = 0.0
    teacher: str = TOWER
    align_weight: float = 0.5
    ema_decay: float = 0.999
    name: str = "denoiser"

    @property
    def teachers(self) -> tuple[str, ...]:
        """Name of the teacher, unless it is the model's own vision tower."""
        return () if self.teacher == TOWER else (self.teacher,)

    def check(self, size: int, stride: int | None) -> int:
        """Check that autoencoder and UNet can halve the side; see ``AbstractStage``."""
        if stride is None:
            raise InputError(f"stage {self.name!r} needs an autoencoder: put that stage before it")
        multiple = stride * 2 ** (len(self.widths) - 1)
        if self.size % multiple or size % self.size:
            raise InputError(
                f"size {self.size} of {self.name}: choose a multiple of {multiple} (autoencoder "
                f"and UNet halve it that often) that divides the pictures' {size}"
            )
        return stride

    def objective(self, context: StageContext) -> Denoising:
        """Return the loss of a new UNet, or of the existing one.

        Raises:
            InputError: if the autoencoder or a tower is missing.
        """
        vae = require_part(context.model, "vae", self.name)
        channels, side = config_of(vae)["latent_channels"], self.size // stride_of(vae)
        tower = require_part(context.model, "text_encoder", self.name)
        latent = {"in_channels": channels, "out_channels": channels, "sample_size": side}
        if (context.model / "unet").is_dir():
            old = load_part(UNet2DConditionModel, context.model, "unet", self.name)
            unet = change_latent(old, latent)
        else:
            shape = (
                dict(PRESETS["sd15"]["unet"])
                | latent
                | {
                    "block_out_channels": tuple(self.widths),
                    "attention_head_dim": tuple(self.heads),  # diffusers means the number of heads
                    "norm_num_groups": self.groups,
                    "cross_attention_dim": config_of(tower)["hidden_size"],
                }
            )
            unet = UNet2DConditionModel(**shape)
        uses_tower = self.teacher == TOWER
        return Denoising(
            unet.train(),
            levels=TOWER_LEVELS if uses_tower else TEACHER_LEVELS,
            teacher_channels=len(self._teacher(context)(0)),
            align_weight=self.align_weight,
            ema_decay=self.ema_decay,
        )

    def fetch(self, context: StageContext) -> Fetch:
        """Return a function that makes a batch of cached latents, noise and timesteps."""
        teacher = self._teacher(context)

        def batch(indices: list[int], seeds: list[int]) -> NoisyBatch:
            noisy = draw(indices, seeds)
            return replace(noisy, teacher=torch.stack([teacher(i) for i in indices]))

        draw = self._batches(context, context.train, self.empty)
        return batch

    def held_out(self, context: StageContext) -> Validation:
        """Return a function that yields held-out pictures with their captions and fixed noise."""
        fetch = self._batches(context, context.held_out, empty=0.0)
        count, size = min(SCORED, len(context.held_out)), self.batch_size
        rows = [list(range(i, min(i + size, count))) for i in range(0, count, size)]
        return lambda rank, world: (fetch(some, some) for some in rows[rank::world])

    def _teacher(self, context: StageContext) -> OutputOf:
        """Return a function from a picture's index to the teacher's features."""
        cache, pictures = context.cache, context.train
        if self.teacher == TOWER:
            return open_tower_features(cache, pictures, context.model, self.name)
        return open_teacher_features(cache, pictures, self.teacher)

    def _batches(self, context: StageContext, pictures: Pictures, empty: float) -> Fetch:
        """Return a function that makes a batch without the teacher's features.

        Args:
            context: context of the stage.
            pictures: pictures with their captions.
            empty: fraction of the captions that are replaced by an empty one.
        """
        latents = open_latents(context.cache, pictures, context.model / "vae", self.size)
        texts, empty_text = open_text_features(context.cache, pictures, context.model, self.name)

        def batch(indices: list[int], seeds: list[int]) -> NoisyBatch:
            draws = [torch.Generator().manual_seed(seed) for seed in seeds]
            latent = torch.stack([latents(i) for i in indices])
            u = torch.stack([torch.rand(3, generator=g) for g in draws])
            noise = torch.stack([torch.randn(latent.shape[1:], generator=g) for g in draws])
            text = torch.stack(
                [
                    empty_text if x < empty else texts(i)
                    for x, i in zip(u[:, 0], indices, strict=True)
                ]
            )
            below = torch.where(u[:, 2] < self.early, EARLY, TIMESTEPS)
            return NoisyBatch(latent, text, (u[:, 1] * below).long(), noise)

        return batch

    def export(self, objective: Denoising, context: StageContext, folder: Path) -> None:
        """Write ``unet/`` (the averaged weights), ``scheduler/`` and ``model_index.json``."""
        save_half(objective.mean, folder / "unet")
        replace_folder(folder / "scheduler", objective.schedule.save_pretrained)
        index = {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": diffusers.__version__,
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
        }
        with replacing(folder / "model_index.json") as partial:
            write_json(partial, index)

    def preview(self, objective: Denoising, context: StageContext, folder: Path) -> Preview:
        """Return samples for fixed prompts, and the scores of a linear probe of the features."""
        for part in ("vae", "text_encoder", "tokenizer"):
            shutil.copytree(context.model / part, folder / part, dirs_exist_ok=True)
        self.export(objective, context, folder)
        samples = generate(FIXED_PROMPTS, model=folder, size=self.size, steps=20)
        rows = [torch.cat(list(some), dim=2) for some in samples.split(len(samples) // 2)]
        return torch.cat(rows, dim=1), probe(folder, size=self.size)
