"""First stage of the pretraining: the KL autoencoder, whose latents the UNet denoises."""

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
from diffsight.pretrain.pictures import average_pixels, to_signed, to_unsigned
from diffsight.pretrain.stage import AbstractStage, Fetch, PictureBatch, Preview, StageContext
from diffsight.training.learner import Validation
from diffsight.training.objective import AbstractObjective
from diffsight.training.optim import AdamW
from diffsight.training.schedules import AbstractSchedule
from diffsight.types import Draws

COARSE = 8  # side in pixels of the squares whose mean colours the low-frequency loss compares
SCORED = 64  # held-out pictures that are scored


@dataclass(frozen=True)
class CropBatch(PictureBatch):
    """A batch of image crops in [-1, 1], and the seeds of the noise that is added to latents."""

    draws: Draws


class Reconstruction(AbstractObjective):
    """The losses of the autoencoder: pixel error, low-frequency error and KL divergence.

    Both errors are L1. The low-frequency error compares colours that are averaged over 8 x 8
    pixels. Without it the autoencoder learns hues late.

    Args:
        vae: autoencoder to train.
        coarse_weight: weight of the low-frequency error, relative to the pixel error.
        kl_weight: weight of the KL divergence, which is summed over the latent and divided by the
            number of values of the image.
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

    def losses(self, batch: CropBatch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms ``pixel``, ``coarse`` and ``kl``, without their weights."""
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

    def score(self, batch: CropBatch) -> Sequence[Any]:
        """Add the PSNR of reconstructions without noise; return these images in about [-1, 1]."""
        reconstructions = self.vae.decode(self.vae.encode(batch.image).latent_dist.mode()).sample
        self.psnr.update(_compute_psnr_db(reconstructions, batch.image))
        return list(reconstructions)

    def scores(self) -> Mapping[str, Tensor]:
        """Return the mean PSNR of the images as ``psnr_db``, and its negative as ``loss``."""
        psnr = self.psnr.compute()
        self.psnr.reset()
        return {"loss": -psnr, "psnr_db": psnr}


@dataclass(frozen=True, kw_only=True)
class Autoencoder(AbstractStage):
    """The stage that trains the autoencoder, on random crops of pictures in full and half size.

    Args:
        optim: AdamW and its parameter groups.
        steps: optimiser steps.
        batch_size: crops per step.
        schedule: learning rate; constant by default.
        widths: channels of the encoder's levels; every level but the last halves the size.
        latent_channels: channels of the latent.
        layers_per_block: residual layers of an encoder level; a decoder level has one more.
        groups: groups of the group normalisations.
        crop: side of a crop in pixels.
        coarse_weight: weight of the low-frequency loss, see ``Reconstruction``.
        kl_weight: weight of the KL divergence.
        replace: train a new autoencoder although the initial model has one. Layers near the image
            with the same shapes are copied to it.
        decoder_only: train only the decoder of the existing autoencoder, so that the latents stay
            valid for a UNet that was trained on them.
        name: name of the stage's folder.
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
        """Check that crops and pictures of half size fit; see ``AbstractStage``."""
        if self.decoder_only and (self.replace or stride is None):
            raise InputError(
                f"{self.name} trains a decoder alone: begin with a model that has an autoencoder "
                "(begin), and leave out replace"
            )
        if stride is None or self.replace:
            stride = 1 << (len(self.widths) - 1)
        if size % (2 * stride):
            raise InputError(
                f"size {size}: choose a multiple of {2 * stride}, because {self.name} encodes "
                f"pictures of full and half size to latents of stride {stride}"
            )
        if self.crop % stride or self.crop > size // 2:
            raise InputError(
                f"crop {self.crop} of {self.name}: choose a multiple of the latent's stride "
                f"{stride} of at most {size // 2}, half the size of the pictures"
            )
        return stride

    def objective(self, context: StageContext) -> Reconstruction:
        """Return the loss of a new autoencoder, or of the existing one."""
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
        """Return a function that makes a batch of random crops.

        Each crop is from a picture of full or half size, and mirrored or not, all with probability
        1/2.
        """

        def crops(indices: list[int], seeds: list[int]) -> CropBatch:
            rows = [
                _draw_crop(
                    context.train.image(index), self.crop, torch.Generator().manual_seed(seed)
                )
                for index, seed in zip(indices, seeds, strict=True)
            ]
            return CropBatch(to_signed(torch.stack(rows)), Draws(tuple(seeds)))

        return crops

    def held_out(self, context: StageContext) -> Validation:
        """Return a function that yields whole held-out pictures, one per batch."""
        return lambda rank, world: [
            CropBatch(to_signed(context.held_out.image(i)[None]), Draws((i,)))
            for i in range(rank, min(SCORED, len(context.held_out)), world)
        ]

    @torch.no_grad()
    def export(self, objective: Reconstruction, context: StageContext, folder: Path) -> None:
        """Write ``vae/``, rescaled so that its latents have unit variance.

        The convolutions before and after the latent are rescaled. With ``decoder_only`` the latents
        are not rescaled.
        """
        if self.decoder_only:
            save_half(objective.vae, folder / "vae")
            return
        vae = copy.deepcopy(objective.vae)
        pictures = [context.train.image(i) for i in range(min(256, len(context.train)))]
        latents = [vae.encode(to_signed(p[None])).latent_dist.mode() for p in pictures]
        rescale(vae, 1 / float(torch.cat(latents).std()))
        vae.register_to_config(scaling_factor=1.0)
        save_half(vae, folder / "vae")

    @torch.no_grad()
    def preview(self, objective: Reconstruction, context: StageContext, folder: Path) -> Preview:
        """Return pictures above their reconstructions, and the PSNR of pictures of half size."""
        whole = torch.stack(
            [context.held_out.image(i) for i in range(min(16, len(context.held_out)))]
        )
        half = average_pixels(whole, 2)
        vae = objective.vae
        reconstructions = [
            vae.decode(vae.encode(to_signed(x)).latent_dist.mode()).sample for x in (whole, half)
        ]
        scores = {
            "psnr_db_half_size": float(_compute_psnr_db(reconstructions[1], to_signed(half)).mean())
        }
        pairs = torch.cat([whole, to_unsigned(reconstructions[0])], dim=2)
        return torch.cat(list(pairs[:8]), dim=2), scores


def _compute_psnr_db(
    reconstruction: Float[Tensor, "b 3 h w"], truth: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, " b"]:
    error = (reconstruction.clamp(-1, 1) - truth) / 2
    return -10 * error.square().mean(dim=(1, 2, 3)).log10()


@torch.no_grad()
def copy_outer_layers(old: Any, vae: Any) -> None:
    """Copy the weights of the layers near the image from one autoencoder to another.

    Blocks are matched by their distance from the image: from the first block of the encoder and
    from the last block of the decoder. Layers with other shapes keep their weights.

    Args:
        old: autoencoder to copy from; None copies nothing.
        vae: autoencoder to copy to.
    """
    if old is None:
        return
    source, target = old.state_dict(), vae.state_dict()
    shift = len(vae.decoder.up_blocks) - len(old.decoder.up_blocks)
    for name, value in source.items():
        parts = name.split(".")
        if parts[:2] == ["decoder", "up_blocks"]:
            parts[2] = str(int(parts[2]) + shift)
        outer = {"conv_in", "down_blocks"} if parts[0] == "encoder" else {"up_blocks"}
        outer |= {"conv_norm_out", "conv_out"} if parts[0] == "decoder" else set()
        parameter = target.get(".".join(parts))
        if parts[1] in outer and parameter is not None and parameter.shape == value.shape:
            parameter.copy_(value)


def rescale(vae: Any, factor: float) -> None:
    """Scale the latents of an ``AutoencoderKL`` by a factor, without changing its reconstructions.

    Args:
        vae: autoencoder; the convolutions before and after the latent are changed in place.
        factor: factor on the mean and the standard deviation of the latents.
    """
    channels = vae.config.latent_channels
    mean, log_variance = slice(0, channels), slice(channels, 2 * channels)
    vae.quant_conv.weight[mean] *= factor
    vae.quant_conv.bias[mean] *= factor
    vae.quant_conv.bias[log_variance] += 2 * math.log(factor)
    vae.post_quant_conv.weight /= factor


def _draw_crop(
    image: UInt8[Tensor, "3 h w"], side: int, generator: torch.Generator
) -> UInt8[Tensor, "3 side side"]:
    """Return a random square crop of a picture, of full or half size, mirrored or not."""
    small, mirrored = torch.randint(2, (2,), generator=generator).tolist()
    if small:
        image = average_pixels(image[None], 2)[0]
    if mirrored:
        image = image.flip(-1)
    top, left = (
        int(torch.randint(length - side + 1, (), generator=generator))
        for length in image.shape[-2:]
    )
    return image[:, top : top + side, left : left + side]
