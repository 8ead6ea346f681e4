"""First stage: the KL autoencoder whose latent the UNet works on."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional
from torchmetrics import MeanMetric

from diffsight.errors import InputError
from diffsight.pretrain.folder import load_part, save_half
from diffsight.pretrain.pictures import averaged, signed, unsigned
from diffsight.pretrain.stage import AbstractStage, Fetch, PictureBatch, Preview, StageContext
from diffsight.training.learner import Validation
from diffsight.training.objective import AbstractObjective
from diffsight.training.optim import AdamW
from diffsight.training.schedules import AbstractSchedule
from diffsight.types import Draws

COARSE = 8  # pixels over which colour is averaged for the low-frequency loss
SCORED = 64  # held-out pictures


@dataclass(frozen=True)
class Crops(PictureBatch):
    """A batch of image parts in [-1, 1] and the seeds of the latents' noise."""

    draws: Draws


class Reconstruction(AbstractObjective):
    """L1 per pixel, L1 of the colour averaged over 8 x 8 pixels, and a little KL.

    Args:
        vae: what learns.
        coarse_weight: of the averaged colour; without it hues are learned late.
        kl_weight: of the KL divergence, summed over a latent and divided by the image's numbers.
    """

    def __init__(self, vae: AutoencoderKL, *, coarse_weight: float, kl_weight: float) -> None:
        super().__init__()
        self.vae: Any = vae  # diffusers' annotations forget its output classes
        self.coarse_weight = coarse_weight
        self.kl_weight = kl_weight
        self.psnr = MeanMetric()

    @property
    def trained(self) -> AutoencoderKL:
        """The autoencoder."""
        return self.vae

    def losses(self, batch: Crops) -> dict[str, Tensor]:
        """Return ``loss`` and its three parts."""
        posterior = self.vae.encode(batch.image).latent_dist
        noise = batch.draws.normal(0, tuple(posterior.mean.shape[1:])).to(posterior.mean)
        error = self.vae.decode(posterior.mean + posterior.std * noise).sample - batch.image
        pixel = error.abs().mean()
        coarse = functional.avg_pool2d(error, COARSE).abs().mean()
        kl = posterior.kl().sum() / batch.image.numel()
        loss = pixel + self.coarse_weight * coarse + self.kl_weight * kl
        return {"loss": loss, "pixel": pixel, "coarse": coarse, "kl": kl}

    def after_step(self) -> None:
        """Do nothing."""

    def score(self, batch: Crops) -> Sequence[Any]:
        """Add the PSNR of the posterior's mode; return the reconstructions in [-1, 1]."""
        again = self.vae.decode(self.vae.encode(batch.image).latent_dist.mode()).sample
        self.psnr.update(_psnr_db(again, batch.image))
        return list(again)

    def scores(self) -> Mapping[str, Tensor]:
        """Return ``psnr_db``, and as ``loss`` minus the mean PSNR in dB of an image."""
        psnr = self.psnr.compute()
        self.psnr.reset()
        return {"loss": -psnr, "psnr_db": psnr}


@dataclass(frozen=True, kw_only=True)
class Autoencoder(AbstractStage):
    """Trained on random parts of pictures, half of them from pictures of half the size.

    Args:
        optim: AdamW and its groups.
        steps: optimiser steps.
        batch_size: parts per step.
        schedule: learning rate; constant by default.
        widths: of the encoder's levels; each but the last halves the size.
        latent_channels: of the latent.
        layers_per_block: residual layers of an encoder level; the decoder has one more.
        groups: of the group normalisations.
        crop: side of a part in pixels.
        coarse_weight: of the low-frequency loss.
        kl_weight: of the KL divergence.
        replace: train a new autoencoder even where the model to begin with has one; it begins with
            the layers of that one which fit, counted from the image.
        decoder_only: train the decoder of the existing one alone: latents stay, and a UNet that was
            trained on them.
        name: of the stage's folder.
    """

    optim: AdamW
    steps: int
    batch_size: int
    schedule: AbstractSchedule | None = None
    widths: Sequence[int] = (16, 32, 64)
    latent_channels: int = 4
    layers_per_block: int = 1
    groups: int = 8
    crop: int = 64
    coarse_weight: float = 1.0
    kl_weight: float = 1e-5
    replace: bool = False
    decoder_only: bool = False
    name: str = "autoencoder"

    def check(self, size: int, stride: int | None) -> int:
        """Pictures of half the size fit, and parts fit into them."""
        if self.decoder_only and (self.replace or stride is None):
            raise InputError(
                f"{self.name} trains a decoder alone: begin with a model (begin) whose autoencoder "
                "is not replaced"
            )
        if stride is None or self.replace:
            stride = 1 << (len(self.widths) - 1)
        if size % (2 * stride):
            raise InputError(
                f"size {size}: choose a multiple of {2 * stride}, as {self.name} takes pictures of "
                f"that and of half the size to latents of stride {stride}"
            )
        if self.crop % stride or self.crop > size // 2:
            raise InputError(
                f"crop {self.crop} of {self.name}: choose a multiple of the latent's stride "
                f"{stride} of at most {size // 2}, half of the pictures' size"
            )
        return stride

    def objective(self, context: StageContext) -> Reconstruction:
        """Return a new autoencoder, or the existing one, to be trained further."""
        vae: Any
        old: Any = None
        if (context.model / "vae").is_dir():
            old = load_part(AutoencoderKL, context.model, "vae", self.name)
        if old is not None and not self.replace:
            vae = old
        else:
            shape: dict[str, Any] = {
                "block_out_channels": tuple(self.widths),
                "down_block_types": ("DownEncoderBlock2D",) * len(self.widths),
                "up_block_types": ("UpDecoderBlock2D",) * len(self.widths),
                "layers_per_block": self.layers_per_block,
                "norm_num_groups": self.groups,
                "latent_channels": self.latent_channels,
            }
            vae = AutoencoderKL(**shape)
            copy_outer_layers(old, vae)
        if self.decoder_only:
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)
        return Reconstruction(
            vae.train(), coarse_weight=self.coarse_weight, kl_weight=self.kl_weight
        )

    def fetch(self, context: StageContext) -> Fetch:
        """Return a function that takes random parts, mirrored every other time."""

        def crops(indices: list[int], seeds: list[int]) -> Crops:
            rows = [
                _crop(context.train.image(index), self.crop, torch.Generator().manual_seed(seed))
                for index, seed in zip(indices, seeds, strict=True)
            ]
            return Crops(signed(torch.stack(rows)), Draws(tuple(seeds)))

        return crops

    def held_out(self, context: StageContext) -> Validation:
        """Return a function that gives whole pictures."""
        return lambda rank, world: [
            Crops(signed(context.held_out.image(i)[None]), Draws((i,)))
            for i in range(rank, min(SCORED, len(context.held_out)), world)
        ]

    @torch.no_grad()
    def export(self, objective: Reconstruction, context: StageContext, folder: Path) -> None:
        """Write ``vae/``; its last and first convolutions scale latents to unit variance.

        With ``decoder_only`` the latents stay as they are.
        """
        if self.decoder_only:
            save_half(objective.vae, folder / "vae")
            return
        vae = copy.deepcopy(objective.vae)
        pictures = [context.train.image(i) for i in range(min(256, len(context.train)))]
        latents = [vae.encode(signed(p[None])).latent_dist.mode() for p in pictures]
        rescale(vae, 1 / float(torch.cat(latents).std()))
        vae.register_to_config(scaling_factor=1.0)
        save_half(vae, folder / "vae")

    @torch.no_grad()
    def preview(self, objective: Reconstruction, context: StageContext, folder: Path) -> Preview:
        """Return pictures above their reconstructions, and the PSNR at half the size."""
        whole = torch.stack(
            [context.held_out.image(i) for i in range(min(16, len(context.held_out)))]
        )
        half = averaged(whole, 2)
        vae = objective.vae
        again = [vae.decode(vae.encode(signed(x)).latent_dist.mode()).sample for x in (whole, half)]
        scores = {"psnr_db_half_size": float(_psnr_db(again[1], signed(half)).mean())}
        pairs = torch.cat([whole, unsigned(again[0])], dim=2)
        return torch.cat(list(pairs[:8]), dim=2), scores


def _psnr_db(
    found: Float[Tensor, "b 3 h w"], truth: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, " b"]:
    error = (found.clamp(-1, 1) - truth) / 2
    return -10 * error.square().mean(dim=(1, 2, 3)).log10()


@torch.no_grad()
def copy_outer_layers(old: Any, vae: Any) -> None:
    """Copy the weights of the layers near the image that two autoencoders have in common.

    Blocks are counted from the image: the first of the encoder, the last of the decoder. Layers of
    other shapes keep their weights.

    Args:
        old: to copy from; None copies nothing.
        vae: to copy into.
    """
    if old is None:
        return
    source, target = old.state_dict(), vae.state_dict()
    shift = len(vae.decoder.up_blocks) - len(old.decoder.up_blocks)
    for name, value in source.items():
        words = name.split(".")
        if words[:2] == ["decoder", "up_blocks"]:
            words[2] = str(int(words[2]) + shift)
        outer = {"conv_in", "down_blocks"} if words[0] == "encoder" else {"up_blocks"}
        outer |= {"conv_norm_out", "conv_out"} if words[0] == "decoder" else set()
        found = target.get(".".join(words))
        if words[1] in outer and found is not None and found.shape == value.shape:
            found.copy_(value)


def rescale(vae: Any, factor: float) -> None:
    """Multiply an ``AutoencoderKL``'s latents, and divide them before decoding: images stay."""
    channels = vae.config.latent_channels
    mean, log_variance = slice(0, channels), slice(channels, 2 * channels)
    vae.quant_conv.weight[mean] *= factor
    vae.quant_conv.bias[mean] *= factor
    vae.quant_conv.bias[log_variance] += 2 * math.log(factor)
    vae.post_quant_conv.weight /= factor


def _crop(
    image: UInt8[Tensor, "3 h w"], side: int, generator: torch.Generator
) -> UInt8[Tensor, "3 side side"]:
    small, mirrored = torch.randint(2, (2,), generator=generator).tolist()
    if small:
        image = averaged(image[None], 2)[0]
    if mirrored:
        image = image.flip(-1)
    top, left = (
        int(torch.randint(length - side + 1, (), generator=generator))
        for length in image.shape[-2:]
    )
    return image[:, top : top + side, left : left + side]
